-- $1 symbols, $2 points of time
-- For each symbol and each point (numbered from 0) the last sample at or before it, where there is one.
SELECT wanted.symbol, point.number - 1 AS point, sample.at, sample.price
FROM unnest($1::text[]) AS wanted (symbol)
CROSS JOIN unnest($2::timestamptz[]) WITH ORDINALITY AS point (at, number)
CROSS JOIN LATERAL (
    SELECT price_sample.at, price_sample.price
    FROM price_sample
    WHERE price_sample.symbol = wanted.symbol AND price_sample.at <= point.at
    ORDER BY price_sample.at DESC
    LIMIT 1
) AS sample

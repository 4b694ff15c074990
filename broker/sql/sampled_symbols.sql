-- The symbols of which there are price samples: it leaps from one to the next in the index.
WITH RECURSIVE sampled AS (
    (SELECT symbol FROM price_sample ORDER BY symbol LIMIT 1)
    UNION ALL
    SELECT (SELECT price_sample.symbol FROM price_sample WHERE price_sample.symbol > sampled.symbol
            ORDER BY price_sample.symbol LIMIT 1)
    FROM sampled
    WHERE sampled.symbol IS NOT NULL
)
SELECT symbol::text AS symbol FROM sampled WHERE symbol IS NOT NULL

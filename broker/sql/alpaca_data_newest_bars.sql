-- $1 symbols, $2 timeframe, $3 before, $4 rows of each: the newest bars that began before
SELECT found.*
FROM unnest($1::text[]) AS wanted (symbol)
CROSS JOIN LATERAL (
    SELECT * FROM bar
    WHERE bar.symbol = wanted.symbol AND bar.timeframe = $2 AND bar.starts_at < $3
    ORDER BY bar.starts_at DESC
    LIMIT $4
) AS found

-- $1 the midnight with which the day began, $2 the minute that runs
-- Of every symbol: the day's bar, the last one before it, and the minutes from then on. It leaps from symbol to symbol in
-- the index.
WITH RECURSIVE traded AS (
    (SELECT symbol FROM bar ORDER BY symbol LIMIT 1)
    UNION ALL
    SELECT (SELECT bar.symbol FROM bar WHERE bar.symbol > traded.symbol ORDER BY bar.symbol LIMIT 1)
    FROM traded
    WHERE traded.symbol IS NOT NULL
)
SELECT found.*
FROM traded
CROSS JOIN LATERAL (
    (SELECT * FROM bar
     WHERE bar.symbol = traded.symbol AND bar.timeframe = '1Day' AND bar.starts_at < $1
     ORDER BY bar.starts_at DESC
     LIMIT 1)
    UNION ALL
    (SELECT * FROM bar WHERE bar.symbol = traded.symbol AND bar.timeframe = '1Day' AND bar.starts_at >= $1)
    UNION ALL
    (SELECT * FROM bar WHERE bar.symbol = traded.symbol AND bar.timeframe = '1Min' AND bar.starts_at >= $2)
) AS found
WHERE traded.symbol IS NOT NULL

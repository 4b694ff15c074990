-- The symbols that have bars. It leaps from one to the next in the index.
WITH RECURSIVE traded AS (
    (SELECT symbol FROM bar ORDER BY symbol LIMIT 1)
    UNION ALL
    SELECT (SELECT bar.symbol FROM bar WHERE bar.symbol > traded.symbol ORDER BY bar.symbol LIMIT 1)
    FROM traded
    WHERE traded.symbol IS NOT NULL
)
SELECT symbol FROM traded WHERE symbol IS NOT NULL

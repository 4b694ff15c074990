-- $1 symbol, $2 from when on bars of a minute are kept, $3 how many to delete at most; the number that is gone
WITH gone AS (
    DELETE FROM bar
    WHERE symbol = $1 AND timeframe = '1Min'
      AND starts_at < least($2, (SELECT starts_at FROM bar
                                 WHERE symbol = $1 AND timeframe = '1Min' AND starts_at < $2
                                 ORDER BY starts_at OFFSET $3 LIMIT 1))
    RETURNING starts_at
)
SELECT count(*) AS gone FROM gone

-- $1 symbols, $2 timeframes, $3 beginnings: those of these bars that there are
SELECT found.*
FROM unnest($1::text[], $2::text[], $3::timestamptz[]) AS wanted (symbol, timeframe, starts_at)
CROSS JOIN LATERAL (
    SELECT * FROM bar
    WHERE bar.symbol = wanted.symbol AND bar.timeframe = wanted.timeframe AND bar.starts_at = wanted.starts_at
    LIMIT 1
) AS found

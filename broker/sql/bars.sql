-- $1 symbol, $2 timeframe, $3 from, $4 until, $5 rows
SELECT starts_at, open, high, low, close, volume, value, trades
FROM bar
WHERE symbol = $1 AND timeframe = $2 AND starts_at >= $3 AND starts_at < $4
ORDER BY starts_at
LIMIT $5

-- $1 customer_id, $2 after, $3 until, $4 side, $5 symbols, each or null, $6 only those that have ended, $7 rows
-- As alpaca_orders_by_id, of all orders, the oldest first.
SELECT trade.*, trail.high_water, successor.trade_id AS replaced_by
FROM (
    SELECT * FROM trade
    WHERE customer_id = $1
      AND ($2::timestamptz IS NULL OR created_at > $2) AND ($3::timestamptz IS NULL OR created_at < $3)
      AND ($4::text IS NULL OR side::text = $4) AND ($5::text[] IS NULL OR symbol = ANY($5::text[]))
      AND (NOT $6::boolean OR status IN ('FILLED', 'REJECTED', 'CANCELLED', 'EXPIRED', 'REPLACED'))
    ORDER BY seq ASC
    LIMIT $7
) AS trade
LEFT JOIN trail ON trail.trade_id = trade.trade_id
LEFT JOIN LATERAL (
    SELECT (array_agg(later.trade_id ORDER BY later.seq DESC))[1] AS trade_id  -- no LIMIT: it would go by seq, through all
    FROM trade AS later
    WHERE later.customer_id = $1 AND later.replaces = trade.trade_id AND later.status <> 'REJECTED'
) AS successor ON trade.status = 'REPLACED'
ORDER BY trade.seq ASC

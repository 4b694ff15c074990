-- $1 customer_id, $2 trade_ids
-- Orders with what Alpaca shows of them beside their rows: the order that replaced one, a trailing stop's high-water mark.
SELECT trade.*, trail.high_water, successor.trade_id AS replaced_by
FROM trade
LEFT JOIN trail ON trail.trade_id = trade.trade_id
LEFT JOIN LATERAL (
    SELECT (array_agg(later.trade_id ORDER BY later.seq DESC))[1] AS trade_id  -- no LIMIT: it would go by seq, through all
    FROM trade AS later
    WHERE later.customer_id = $1 AND later.replaces = trade.trade_id AND later.status <> 'REJECTED'
) AS successor ON trade.status = 'REPLACED'
WHERE trade.customer_id = $1 AND trade.trade_id = ANY($2::uuid[])

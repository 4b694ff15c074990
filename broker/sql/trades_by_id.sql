-- $1 trade_ids
SELECT trade.*, filled.executions
FROM trade
LEFT JOIN LATERAL (
    SELECT array_agg((execution.execution_id, execution.last_qty, execution.last_px)) AS executions
    FROM execution
    WHERE execution.trade_id = trade.trade_id AND trade.filled_quantity > 0
) AS filled ON true
WHERE trade.trade_id = ANY($1::uuid[])

-- $1 customer_id, $2 before this transfer, $3 from this transfer on, $4 symbol or null, $5 from, $6 to, $7 rows, $8 trade_id
-- As customer_executions, of one order.
SELECT execution.*, trade.symbol, trade.side, bust.execution_id IS NOT NULL AS busted
FROM trade
JOIN execution ON execution.trade_id = trade.trade_id AND NOT execution.suspense
LEFT JOIN bust ON bust.venue = execution.venue AND bust.execution_id = execution.execution_id
WHERE trade.trade_id = $8 AND trade.customer_id = $1
  AND execution.transfer_id < $2 AND execution.transfer_id >= $3
  AND ($4::text IS NULL OR trade.symbol = $4)
  AND ($5::timestamptz IS NULL OR execution.at >= $5)
  AND ($6::timestamptz IS NULL OR execution.at < $6)
ORDER BY execution.transfer_id DESC
LIMIT $7

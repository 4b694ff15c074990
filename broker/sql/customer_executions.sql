-- $1 customer_id, $2 before this transfer, $3 from this transfer on, $4 symbol or null, $5 from, $6 to, $7 rows
-- Newest first. What went to the broker's suspense account has no line of the customer's, and so is not in it.
SELECT execution.*, trade.symbol, trade.side, bust.execution_id IS NOT NULL AS busted
FROM posting
JOIN execution ON execution.transfer_id = posting.transfer_id
JOIN trade ON trade.trade_id = execution.trade_id AND trade.symbol = posting.asset
LEFT JOIN bust ON bust.venue = execution.venue AND bust.execution_id = execution.execution_id
WHERE posting.owner_id = $1 AND posting.transfer_id < $2 AND posting.transfer_id >= $3 AND posting.asset <> '$USD'
  AND ($4::text IS NULL OR posting.asset = $4)
  AND ($5::timestamptz IS NULL OR execution.at >= $5)
  AND ($6::timestamptz IS NULL OR execution.at < $6)
ORDER BY posting.transfer_id DESC
LIMIT $7

-- $1 customer_ids
SELECT * FROM trade_with_executions
WHERE customer_id = ANY($1::bigint[]) AND status IN ('PLACED', 'HELD', 'IN PROGRESS', 'PARTIALLY FILLED')
ORDER BY customer_id, seq

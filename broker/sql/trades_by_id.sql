-- $1 trade_ids
SELECT * FROM trade_with_executions
WHERE trade_id = ANY($1::uuid[])

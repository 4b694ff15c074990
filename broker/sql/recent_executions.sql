-- $1 customer_ids, $2 an id as it would have been given when the first day that counts began: ids are in order of time.
-- New York's day, symbol and side of each of their executions, oldest first.
SELECT trade.customer_id, trade.trade_id, trade.symbol, trade.side, (execution.at AT TIME ZONE 'America/New_York')::date AS day
FROM unnest($1::bigint[]) AS wanted (customer_id)
JOIN posting ON posting.owner_id = wanted.customer_id AND posting.transfer_id >= $2 AND posting.asset <> '$USD'
JOIN execution ON execution.transfer_id = posting.transfer_id AND NOT execution.suspense
JOIN trade ON trade.trade_id = execution.trade_id
ORDER BY execution.at, execution.execution_id

-- $1 customer_ids, $2 their idempotency keys
SELECT trade.*, NULL::executed[] AS executions
FROM unnest($1::bigint[], $2::text[]) AS wanted (customer_id, idempotency_key)
JOIN trade ON trade.customer_id = wanted.customer_id AND trade.idempotency_key = wanted.idempotency_key

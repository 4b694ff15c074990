-- $1 customer_ids, $2 their client order ids
SELECT trade.*, NULL::executed[] AS executions
FROM unnest($1::bigint[], $2::text[]) AS wanted (customer_id, client_order_id)
JOIN trade ON trade.customer_id = wanted.customer_id AND trade.client_order_id = wanted.client_order_id

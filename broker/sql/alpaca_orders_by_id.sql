-- $1 customer_id, $2 trade_ids
SELECT * FROM order_with_links WHERE customer_id = $1 AND trade_id = ANY($2::uuid[])

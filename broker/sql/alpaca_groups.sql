-- $1 customer_id, $2 group_ids
SELECT * FROM order_with_links WHERE customer_id = $1 AND group_id = ANY($2::uuid[])

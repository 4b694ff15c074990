-- $1 customer_id, $2 client_order_id
SELECT * FROM order_with_links WHERE customer_id = $1 AND client_order_id = $2

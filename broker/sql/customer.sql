-- $1 customer_id
SELECT customer_id, name, account_type, status, created_at FROM customer WHERE customer_id = $1

-- $1 customer_id, $2 status
UPDATE customer SET status = $2 WHERE customer_id = $1 RETURNING customer_id, name, account_type, status, created_at

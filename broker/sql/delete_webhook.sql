-- $1 customer_id, $2 webhook_id
DELETE FROM webhook WHERE webhook_id = $2 AND customer_id = $1 RETURNING webhook_id

-- $1 customer_id, $2 webhook_id
SELECT webhook_id, url, delivered, failures, failing_since, last_error, next_try_at, disabled_at, created_at
FROM webhook WHERE webhook_id = $2 AND customer_id = $1

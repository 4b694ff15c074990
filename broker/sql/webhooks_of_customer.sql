-- $1 customer_id
SELECT webhook_id, url, delivered, failures, failing_since, last_error, next_try_at, disabled_at, created_at
FROM webhook WHERE customer_id = $1 ORDER BY webhook_id

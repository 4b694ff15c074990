-- $1 webhook_id, $2 customer_id, $3 url, $4 secret, $5 delivered
INSERT INTO webhook (webhook_id, customer_id, url, secret, delivered) VALUES ($1, $2, $3, $4, $5)
RETURNING webhook_id, url, delivered, failures, failing_since, last_error, next_try_at, disabled_at, created_at

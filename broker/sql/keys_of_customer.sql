-- $1 customer_id
SELECT key_id, scopes, created_at, expires_at, revoked_at FROM api_key WHERE customer_id = $1 ORDER BY created_at

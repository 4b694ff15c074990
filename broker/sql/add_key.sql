-- $1 key_id, $2 customer_id or null for an operator's, $3 secret_hash, $4 scopes, $5 expires_at or null
INSERT INTO api_key (key_id, customer_id, secret_hash, scopes, expires_at) VALUES ($1, $2, $3, $4::text[], $5)
RETURNING key_id, scopes, expires_at

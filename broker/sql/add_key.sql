-- $1 key_id, $2 customer_id, $3 secret_hash
INSERT INTO api_key (key_id, customer_id, secret_hash) VALUES ($1, $2, $3) RETURNING key_id

-- $1 key_id
SELECT api_key.customer_id, api_key.secret_hash, customer.status
FROM api_key JOIN customer ON customer.customer_id = api_key.customer_id
WHERE api_key.key_id = $1 AND api_key.revoked_at IS NULL

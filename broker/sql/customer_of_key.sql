-- $1 key_id. An operator's key has no customer.
SELECT api_key.customer_id, api_key.secret_hash, api_key.scopes, api_key.expires_at, customer.status
FROM api_key LEFT JOIN customer ON customer.customer_id = api_key.customer_id
WHERE api_key.key_id = $1 AND api_key.revoked_at IS NULL AND (api_key.expires_at IS NULL OR api_key.expires_at > now())

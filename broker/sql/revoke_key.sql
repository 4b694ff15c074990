-- $1 customer_id, $2 key_id
UPDATE api_key SET revoked_at = coalesce(revoked_at, now()) WHERE customer_id = $1 AND key_id = $2 RETURNING key_id, revoked_at

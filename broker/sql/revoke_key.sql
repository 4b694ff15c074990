-- $1 customer_id or null for an operator's, $2 key_id
UPDATE api_key SET revoked_at = coalesce(revoked_at, now())
WHERE key_id = $2 AND customer_id IS NOT DISTINCT FROM $1 RETURNING key_id, revoked_at

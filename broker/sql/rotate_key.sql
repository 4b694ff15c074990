-- $1 customer_id or null for an operator's, $2 key_id, $3 key_id of the new key, $4 its secret_hash, $5 seconds of overlap.
-- The new key has the same scopes, and lives as long as the old one was to. One that was rotated already is not again.
WITH old AS (
    SELECT key_id, customer_id, scopes, created_at, expires_at, replaced_by FROM api_key
    WHERE key_id = $2 AND customer_id IS NOT DISTINCT FROM $1
        AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
    FOR UPDATE
), made AS (
    INSERT INTO api_key (key_id, customer_id, secret_hash, scopes, expires_at)
    SELECT $3, customer_id, $4, scopes, now() + (expires_at - created_at) FROM old WHERE replaced_by IS NULL
    RETURNING key_id, scopes, expires_at
), ending AS (
    UPDATE api_key SET replaced_by = made.key_id,
        expires_at = least(api_key.expires_at, now() + $5::float8 * interval '1 second')
    FROM made WHERE api_key.key_id = $2 RETURNING api_key.expires_at
)
SELECT old.replaced_by, made.key_id, made.scopes, made.expires_at, ending.expires_at AS overlap_until
FROM old LEFT JOIN made ON true LEFT JOIN ending ON true

-- $1 key_ids
SELECT key_id, extract(epoch FROM expires_at - now())::float8 AS ends_in_s FROM api_key
WHERE key_id = ANY($1::text[]) AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())

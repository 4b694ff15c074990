-- $1 key_ids
SELECT key_id FROM api_key WHERE key_id = ANY($1::text[]) AND revoked_at IS NULL

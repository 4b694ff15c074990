-- $1 the `at` of the last look, or null. The minute before it is looked at again: a transaction may show long after the
-- time that it wrote. Keys that end soon may have been good for longer, or for ever, when they were read; none is kept
-- for as long as this looks ahead.
SELECT now() AS at,
       array(SELECT key_id FROM api_key WHERE revoked_at > coalesce($1::timestamptz, now()) - interval '1 minute') AS key_ids,
       coalesce(array_agg(ending.key_id), '{}') AS ending, coalesce(array_agg(ending.expires_at), '{}') AS ends
FROM (
    SELECT key_id, expires_at FROM api_key
    WHERE expires_at BETWEEN coalesce($1::timestamptz, now()) - interval '1 minute' AND now() + interval '15 minutes'
) AS ending

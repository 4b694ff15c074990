-- $1 the `at` of the last look, or null. The minute before it is looked at again: a transaction may show long after the
-- time that it wrote.
SELECT now() AS at,
       array(SELECT key_id FROM api_key WHERE revoked_at > coalesce($1::timestamptz, now()) - interval '1 minute') AS key_ids

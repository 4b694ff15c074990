-- $1 scope, $2 names, $3 their values, $4 names that go back to the default
WITH gone AS (DELETE FROM risk_limit WHERE scope = $1 AND name = ANY($4::text[]))
INSERT INTO risk_limit (scope, name, value) SELECT $1, * FROM unnest($2::text[], $3::bigint[])
ON CONFLICT (scope, name) DO UPDATE SET value = excluded.value

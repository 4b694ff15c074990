-- $1 scope, $2 reason
INSERT INTO control (scope, reason) VALUES ($1, $2) ON CONFLICT (scope) DO UPDATE SET reason = excluded.reason

-- $1 webhook_id, $2 the lease that we have, $3 delivered, $4 seconds that we keep it for; no row: it is not ours any more
UPDATE webhook SET delivered = $3, next_try_at = now() + make_interval(secs => $4),
    failures = CASE WHEN $3 > delivered THEN 0 ELSE failures END,
    failing_since = CASE WHEN $3 > delivered THEN NULL ELSE failing_since END,
    last_error = CASE WHEN $3 > delivered THEN NULL ELSE last_error END
WHERE webhook_id = $1 AND next_try_at = $2
RETURNING next_try_at

-- $1 webhook_id, $2 the lease that we had, $3 delivered, $4 why, $5 seconds until the next try, $6 whether it is disabled
-- at once, $7 seconds of failing after which it is; no row: it is not ours any more
UPDATE webhook SET delivered = $3, next_try_at = now() + make_interval(secs => $5), last_error = $4,
    failures = CASE WHEN $3 > delivered THEN 1 ELSE failures + 1 END,
    failing_since = CASE WHEN $3 > delivered THEN now() ELSE coalesce(failing_since, now()) END,
    disabled_at = CASE
        WHEN $6 OR ($3 = delivered AND now() - failing_since > make_interval(secs => $7)) THEN now()
    END
WHERE webhook_id = $1 AND next_try_at = $2
RETURNING disabled_at

-- $1 customer_id, $2 webhook_id; one that fails and is not disabled yet is tried at once as well
UPDATE webhook SET failures = 0, failing_since = NULL, last_error = NULL, disabled_at = NULL, next_try_at = now()
WHERE webhook_id = $2 AND customer_id = $1 AND failures > 0
RETURNING webhook_id

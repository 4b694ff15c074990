-- $1 how many at most, $2 for how many seconds; those that have waited longest. Whoever else looks now takes others.
UPDATE webhook SET next_try_at = now() + make_interval(secs => $2)
WHERE webhook_id = ANY (ARRAY(
    SELECT due.webhook_id FROM webhook AS due
    WHERE due.disabled_at IS NULL AND due.next_try_at <= now()
    AND (SELECT event.seq FROM event WHERE event.customer_id = due.customer_id ORDER BY event.seq DESC LIMIT 1) > due.delivered
    ORDER BY due.next_try_at
    LIMIT $1
    FOR UPDATE OF due SKIP LOCKED))
RETURNING webhook_id, customer_id, url, secret, delivered, failures, next_try_at

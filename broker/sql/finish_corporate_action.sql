-- $1 event_id
UPDATE corporate_action SET finished_at = now() WHERE event_id = $1 AND finished_at IS NULL

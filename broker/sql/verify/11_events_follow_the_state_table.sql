-- From one status to another as status_change says, or a step that leaves the status as it is.
SELECT event.trade_id, event.number, previous.status AS before, event.status AS after
FROM event
JOIN event AS previous ON previous.trade_id = event.trade_id AND previous.number = event.number - 1
LEFT JOIN status_change ON status_change.before = previous.status AND status_change.after = event.status
WHERE status_change.before IS NULL AND previous.status <> event.status
UNION ALL
SELECT trade_id, number, NULL, status FROM event WHERE number = 1 AND status <> 'PLACED'

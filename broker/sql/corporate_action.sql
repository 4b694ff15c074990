-- $1 event_id
SELECT content, price, holders, finished_at FROM corporate_action WHERE event_id = $1

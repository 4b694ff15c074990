-- The events of each commit are those that its record in the chain vouches for, and none came beside them: in no chain are
-- only those that were there before schema 5 came.
WITH told AS (
    SELECT chain, link, min(at) AS first_at, max(at) AS last_at, digest_of_events(array_agg(ROW(
        customer_id, seq, trade_id, number, step, status, reason, filled_quantity, filled_value, acknowledged,
        cancel_requested, quantity, execution_id)::new_event)) AS digest
    FROM event WHERE link IS NOT NULL GROUP BY chain, link
), recorded AS (
    SELECT chain, number AS link, at, content FROM audit WHERE action = 'events'
)
SELECT chain, link, recorded.content AS recorded, told.digest
FROM told FULL JOIN recorded USING (chain, link)
WHERE told.digest IS DISTINCT FROM recorded.content OR first_at <> at OR last_at <> at
UNION ALL
SELECT customer_id, seq, 'an event in no chain came after one that is in one', NULL FROM (
    SELECT customer_id, seq, link IS NULL AS outside, bool_or(link IS NOT NULL) OVER (
        PARTITION BY customer_id ORDER BY seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS follows
    FROM event) AS each
WHERE outside AND follows
UNION ALL
(SELECT customer_id, seq, 'an event in no chain, and there were none before', NULL FROM event
 WHERE link IS NULL AND NOT EXISTS (SELECT FROM audit WHERE action = 'before') LIMIT 1)

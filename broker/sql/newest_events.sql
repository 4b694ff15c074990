-- $1 customer_ids. The seq of each one's newest event; null where it has none.
SELECT wanted.customer_id,
       (SELECT event.seq FROM event WHERE event.customer_id = wanted.customer_id ORDER BY event.seq DESC LIMIT 1) AS seq
FROM unnest($1::bigint[]) AS wanted (customer_id)

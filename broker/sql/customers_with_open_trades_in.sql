-- $1 symbols
SELECT customer_id, count(*) AS trades FROM trade
WHERE status IN ('PLACED', 'HELD', 'IN PROGRESS', 'PARTIALLY FILLED') AND symbol = ANY($1::text[])
GROUP BY customer_id ORDER BY customer_id

-- seq is 1, 2, 3 ... for each customer: nothing that was acknowledged is missing.
SELECT customer_id, count(*) AS trades, max(seq) AS highest FROM trade GROUP BY customer_id HAVING count(*) <> max(seq)

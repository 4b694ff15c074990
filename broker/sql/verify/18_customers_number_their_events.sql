-- seq is 1, 2, 3 ... for each customer: whoever follows the events can tell that none is missing.
SELECT customer_id, count(*) AS events, max(seq) AS highest FROM event GROUP BY customer_id HAVING count(*) <> max(seq)

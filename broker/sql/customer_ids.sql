-- $1 customer_ids, or null for all, $2 rows. Those that exist.
SELECT customer_id FROM customer WHERE $1::bigint[] IS NULL OR customer_id = ANY($1::bigint[]) ORDER BY customer_id LIMIT $2

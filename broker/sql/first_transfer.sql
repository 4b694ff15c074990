-- $1 customer_id
SELECT transfer_id FROM posting WHERE owner_id = $1 ORDER BY transfer_id LIMIT 1

-- $1 customer_id
-- What the customer's history begins with: the newest reset, else the first transfer. (The partial index of resets is
-- read, which is empty but where bots are tested.)
SELECT coalesce(reset.transfer_id, first.transfer_id) AS transfer_id
FROM (SELECT max(transfer_id::text)::uuid AS transfer_id FROM transfer WHERE kind = 'reset' AND customer_id = $1) AS reset
LEFT JOIN (SELECT transfer_id FROM posting WHERE owner_id = $1 ORDER BY transfer_id LIMIT 1) AS first ON true
WHERE coalesce(reset.transfer_id, first.transfer_id) IS NOT NULL

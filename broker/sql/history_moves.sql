-- $1 customer_id, $2 for each point of time but the last the first id of its moment, in order
-- What the customer has now (span 0), and what changed between two points (span 1 to n), on one snapshot. Only a transfer
-- with a single line, of cash, can be a deposit or a withdrawal: the others need no look at their kind.
SELECT 0 AS span, asset::text AS asset, balance AS amount, cost, 0::bigint AS deposited, 0::bigint AS paid_in
FROM account
WHERE owner_id = $1
UNION ALL
SELECT width_bucket(transfer_id, $2::uuid[]), asset::text, sum(amount)::bigint, sum(cost)::bigint,
       coalesce(sum(amount) FILTER (WHERE is_deposit), 0)::bigint,
       coalesce(sum(amount) FILTER (WHERE is_deposit AND amount > 0), 0)::bigint
FROM (
    SELECT transfer_id, asset, amount, cost,
           CASE WHEN lines = 1 AND asset = '$USD' THEN
               (SELECT kind = 'cash' FROM transfer WHERE transfer.transfer_id = line.transfer_id)
           END AS is_deposit
    FROM (
        SELECT transfer_id, asset, amount, cost, count(*) OVER (PARTITION BY transfer_id) AS lines
        FROM posting
        WHERE owner_id = $1 AND transfer_id >= ($2::uuid[])[1]
    ) AS line
) AS change
GROUP BY 1, 2

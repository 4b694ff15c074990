-- The balance, and of shares what they cost and have gained.
SELECT account.owner_id, account.asset, account.balance, coalesce(posted.amount, 0) AS posted, account.cost,
       coalesce(posted.cost, 0) AS posted_cost, account.gain, coalesce(posted.gain, 0) AS posted_gain
FROM account
LEFT JOIN (
    SELECT owner_id, asset, sum(amount) AS amount, sum(cost) AS cost, sum(gain) AS gain FROM posting GROUP BY owner_id, asset
) AS posted USING (owner_id, asset)
WHERE (account.balance, account.cost, account.gain)
   <> (coalesce(posted.amount, 0), coalesce(posted.cost, 0), coalesce(posted.gain, 0))

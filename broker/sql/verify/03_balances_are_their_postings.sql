SELECT account.owner_id, account.asset, account.balance, coalesce(posted.amount, 0) AS posted
FROM account
LEFT JOIN (SELECT owner_id, asset, sum(amount) AS amount FROM posting GROUP BY owner_id, asset) AS posted
    USING (owner_id, asset)
WHERE account.balance <> coalesce(posted.amount, 0)

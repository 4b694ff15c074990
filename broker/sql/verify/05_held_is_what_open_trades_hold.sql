SELECT account.owner_id, account.asset, account.held, coalesce(wanted.hold, 0) AS held_by_trades
FROM account
LEFT JOIN (
    SELECT customer_id AS owner_id, CASE side WHEN 'BUY' THEN '$USD' ELSE symbol END AS asset, sum(hold) AS hold
    FROM trade
    GROUP BY 1, 2
) AS wanted USING (owner_id, asset)
WHERE account.held <> coalesce(wanted.hold, 0)

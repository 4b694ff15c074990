SELECT account.owner_id, account.asset, account.balance, account.floor, customer.account_type
FROM account LEFT JOIN customer ON customer.customer_id = account.owner_id
WHERE account.owner_id > 0 AND (account.floor < 0 OR account.balance < 0)
  AND (customer.account_type IS DISTINCT FROM 'margin' OR account.asset <> '$USD')

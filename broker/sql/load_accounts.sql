-- $1 customer_ids. The version is read before the trades (open_trades): if somebody commits in between, our commit fails
-- on the version and we read again.
SELECT account.owner_id, account.asset, account.balance, account.held, account.floor, account.cost, account.gain,
       account.version, customer.account_type,
       CASE WHEN account.asset = '$USD' THEN
           (SELECT trade.seq FROM trade WHERE trade.customer_id = account.owner_id ORDER BY trade.seq DESC LIMIT 1)
       END AS last_seq,
       CASE WHEN account.asset = '$USD' THEN
           (SELECT event.seq FROM event WHERE event.customer_id = account.owner_id ORDER BY event.seq DESC LIMIT 1)
       END AS last_event
FROM account
JOIN customer ON customer.customer_id = account.owner_id
WHERE account.owner_id = ANY($1::bigint[])

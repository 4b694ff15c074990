-- $1 customer_id, $2 the trade date
-- Cash and every position, once sold ones too; on the row of the cash stands what there is once: all on one snapshot.
SELECT account.asset, account.balance, account.held, account.floor, account.cost, account.gain,
       customer.account_type, customer.status,
       CASE WHEN account.asset = '$USD' THEN
           EXISTS (SELECT FROM control WHERE scope = 'customer:' || $1::bigint)
       END AS restricted,
       CASE WHEN account.asset = '$USD' THEN
           (SELECT lowest FROM margin_day WHERE margin_day.customer_id = $1 AND day = $2)
       END AS lowest,
       CASE WHEN account.asset = '$USD' THEN
           (SELECT array_agg((trade_id, seq, symbol::text, quantity, created_at, venue, hold))
            FROM trade
            WHERE trade.customer_id = $1 AND side = 'BUY' AND hold > 0
              AND trade.status IN ('PLACED', 'HELD', 'IN PROGRESS', 'PARTIALLY FILLED'))
       END AS buys
FROM account
JOIN customer ON customer.customer_id = account.owner_id
WHERE account.owner_id = $1

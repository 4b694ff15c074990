-- Of every position that no corporate action has touched, without what the exchange took back. A reset says itself what
-- it changed.
SELECT account.owner_id, account.asset, account.cost, account.gain, coalesce(traded.net, 0) AS bought_less_sold,
       coalesce(stated.net, 0) AS by_resets
FROM account
LEFT JOIN (
    SELECT trade.customer_id, trade.symbol,
           sum(CASE trade.side WHEN 'BUY' THEN 1 ELSE -1 END * execution.last_qty * execution.last_px) AS net
    FROM execution JOIN trade USING (trade_id)
    WHERE NOT execution.suspense
      AND NOT EXISTS (SELECT FROM bust WHERE bust.venue = execution.venue AND bust.execution_id = execution.execution_id)
    GROUP BY trade.customer_id, trade.symbol
) AS traded ON traded.customer_id = account.owner_id AND traded.symbol = account.asset
LEFT JOIN (
    SELECT posting.owner_id, posting.asset, sum(posting.cost - posting.gain) AS net
    FROM transfer JOIN posting ON posting.owner_id = transfer.customer_id AND posting.transfer_id = transfer.transfer_id
    WHERE transfer.kind = 'reset'
    GROUP BY posting.owner_id, posting.asset
) AS stated ON stated.owner_id = account.owner_id AND stated.asset = account.asset
WHERE account.owner_id > 0 AND account.asset <> '$USD'
  AND account.cost - account.gain <> coalesce(traded.net, 0) + coalesce(stated.net, 0)
  AND NOT EXISTS (
      SELECT FROM posting JOIN transfer USING (transfer_id)
      WHERE posting.owner_id = account.owner_id AND posting.asset = account.asset AND transfer.kind = 'corporate')

-- Each execution has one transfer of its own, and that moves its price times its quantity.
SELECT execution.venue, execution.execution_id, cash.amount AS cash_moved, execution.last_qty * execution.last_px AS value
FROM execution
JOIN trade USING (trade_id)
LEFT JOIN transfer ON transfer.transfer_id = execution.transfer_id AND transfer.kind = 'fill'
LEFT JOIN posting AS cash
    ON cash.transfer_id = execution.transfer_id AND cash.owner_id = trade.customer_id AND cash.asset = '$USD'
LEFT JOIN posting AS shares
    ON shares.transfer_id = execution.transfer_id AND shares.owner_id = trade.customer_id AND shares.asset = trade.symbol
WHERE transfer.transfer_id IS NULL
   OR cash.amount IS DISTINCT FROM execution.last_qty * execution.last_px * CASE trade.side WHEN 'BUY' THEN -1 ELSE 1 END
   OR shares.amount IS DISTINCT FROM execution.last_qty * CASE trade.side WHEN 'BUY' THEN 1 ELSE -1 END

-- Each execution has one transfer of its own, in which the exchange gets or gives its price times its quantity, and the
-- fee goes to the broker's fees. (What the rest of the transfer is, the sum of zero says.)
SELECT execution.venue, execution.execution_id, moved.cash, execution.last_qty * execution.last_px AS value, moved.fee
FROM execution
JOIN trade USING (trade_id)
LEFT JOIN transfer ON transfer.transfer_id = execution.transfer_id
LEFT JOIN (
    SELECT transfer_id,
           sum(amount) FILTER (WHERE -owner_id % 10 = 1 AND asset = '$USD') AS cash,
           sum(amount) FILTER (WHERE -owner_id % 10 = 1 AND asset <> '$USD') AS shares,
           coalesce(sum(amount) FILTER (WHERE -owner_id % 10 = 3), 0) AS fee
    FROM posting WHERE owner_id < 0
    GROUP BY transfer_id
) AS moved ON moved.transfer_id = execution.transfer_id
WHERE transfer.transfer_id IS NULL
   OR transfer.kind <> (CASE WHEN execution.suspense THEN 'suspense' ELSE 'fill' END)::transfer_kind
   OR moved.cash IS DISTINCT FROM execution.last_qty * execution.last_px * CASE trade.side WHEN 'BUY' THEN 1 ELSE -1 END
   OR moved.shares IS DISTINCT FROM execution.last_qty * CASE trade.side WHEN 'BUY' THEN -1 ELSE 1 END
   OR moved.fee <> CASE WHEN execution.suspense THEN 0 ELSE execution.fee END

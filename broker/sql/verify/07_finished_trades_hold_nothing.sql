SELECT trade_id, status, hold, filled_quantity, quantity FROM trade
WHERE (status IN ('FILLED', 'REJECTED', 'CANCELLED', 'EXPIRED', 'REPLACED') AND hold <> 0)
   OR (status = 'FILLED') <> (filled_quantity = quantity)

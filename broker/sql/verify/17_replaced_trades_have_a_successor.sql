SELECT trade.trade_id, trade.customer_id, trade.reason
FROM trade
WHERE trade.status = 'REPLACED' AND trade.reason LIKE 'Replaced by order %'
  AND NOT EXISTS (
      SELECT FROM trade AS successor
      WHERE successor.replaces = trade.trade_id AND successor.customer_id = trade.customer_id)

-- An exit is held for its entry, or for the other exit. With neither it may only wait to be allowed out: where its entry has
-- filled, or its price was reached.
SELECT trade.trade_id, trade.group_id, trade.role
FROM trade
WHERE trade.status = 'HELD' AND trade.role <> 'entry' AND NOT trade.triggered AND NOT EXISTS (
    SELECT FROM trade AS other
    WHERE other.group_id = trade.group_id AND other.trade_id <> trade.trade_id
      AND (other.status IN ('PLACED', 'HELD', 'IN PROGRESS', 'PARTIALLY FILLED')
           AND (other.status <> 'HELD' OR other.role <> 'stop_loss')
           OR other.status = 'FILLED' AND other.role = 'entry'
           AND (trade.role = 'take_profit' OR trade.order_class = 'oto')))

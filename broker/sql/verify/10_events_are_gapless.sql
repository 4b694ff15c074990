-- The audit trail of a trade numbers 1 to trade.events, and ends with the status that the trade has.
SELECT trade.trade_id, trade.events, trade.status, logged.events AS logged, logged.highest, last.status AS last_status
FROM trade
LEFT JOIN (SELECT trade_id, count(*) AS events, max(number) AS highest FROM event GROUP BY trade_id) AS logged
    USING (trade_id)
LEFT JOIN event AS last ON last.trade_id = trade.trade_id AND last.number = trade.events
WHERE logged.events IS DISTINCT FROM trade.events OR logged.highest IS DISTINCT FROM trade.events
   OR last.status IS DISTINCT FROM trade.status

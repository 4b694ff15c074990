-- A customer's trade starts after every earlier one has ended.
SELECT later.customer_id, later.trade_id, later.seq, later.started, earlier.ended AS earlier_ended
FROM (SELECT trade.customer_id, trade.trade_id, trade.seq, event.at AS started,
             lag(trade.trade_id) OVER (PARTITION BY trade.customer_id ORDER BY trade.seq) AS earlier_id
      FROM trade JOIN event ON event.trade_id = trade.trade_id AND event.number = 2) AS later
JOIN (SELECT trade_id, max(at) AS ended FROM event GROUP BY trade_id) AS earlier
    ON earlier.trade_id = later.earlier_id
WHERE earlier.ended > later.started

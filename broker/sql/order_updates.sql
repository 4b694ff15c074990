-- $1 customer_id, $2 after this seq, $3 rows
-- Each event of the customer's, oldest first, with its order as it was then and the execution that it tells of. One row at
-- a time, never a join that a plan could turn into reading a whole table. An execution is at its trade's venue, as a rule:
-- there its primary key finds it, however many its trade has.
SELECT event.seq, event.step, event.status, event.reason, event.filled_quantity, event.filled_value, event.acknowledged,
       event.cancel_requested, event.quantity, event.at AS updated_at, trade.trade_id, trade.client_order_id, trade.symbol, trade.side,
       trade.order_type, trade.time_in_force, trade.limit_price, trade.stop_price, trade.replaces,
       trade.order_class, trade.group_id, trade.role, trade.trail_amount, trade.trail_bps, trade.extended_hours,
       trade.venue, trade.created_at, execution.execution_id, execution.last_qty, execution.last_px, execution.fee,
       execution.corrects, execution.at, event.step = 'busted' AS busted
FROM (SELECT * FROM event WHERE customer_id = $1 AND seq > $2 ORDER BY seq LIMIT $3) AS event
CROSS JOIN LATERAL (SELECT * FROM trade WHERE trade.trade_id = event.trade_id LIMIT 1) AS trade
LEFT JOIN LATERAL (
    SELECT * FROM execution
    WHERE execution.venue = trade.venue AND execution.execution_id = event.execution_id
      AND execution.trade_id = event.trade_id
    UNION ALL
    SELECT * FROM execution
    WHERE execution.trade_id = event.trade_id AND execution.execution_id = event.execution_id
      AND execution.venue <> trade.venue AND event.execution_id IS NOT NULL
    LIMIT 1
) AS execution ON event.step IN ('executed', 'busted', 'corrected', 'suspense')
ORDER BY event.seq

-- $1 customer_id, $2 after this seq, $3 rows
-- As order_updates, with all of the order's columns, and beside an execution how many shares of the symbol it moved and
-- how many the customer has by now. What it had after each, whoever reads this counts: nothing here looks beyond the page.
SELECT event.seq, event.step, event.status, event.filled_quantity, event.filled_value, event.acknowledged,
       event.cancel_requested, event.quantity, event.at AS updated_at, trade.trade_id, trade.client_order_id,
       trade.symbol, trade.side, trade.order_type, trade.time_in_force, trade.limit_price, trade.stop_price, trade.replaces,
       trade.order_class, trade.group_id, trade.role, trade.trail_amount, trade.trail_bps, trade.extended_hours,
       trade.triggered, event.reason, trade.created_at, trail.high_water, successor.trade_id AS replaced_by,
       CASE WHEN event.status IN ('FILLED', 'REJECTED', 'CANCELLED', 'EXPIRED', 'REPLACED')
           THEN trade.ended_at END AS ended_at,
       coalesce(execution.venue, trade.venue) AS venue, execution.execution_id, execution.last_qty, execution.last_px,
       coalesce(posting.amount, 0) AS moved, coalesce(account.balance, 0) AS balance
FROM (SELECT * FROM event WHERE customer_id = $1 AND seq > $2 ORDER BY seq LIMIT $3) AS event
CROSS JOIN LATERAL (SELECT * FROM trade WHERE trade.trade_id = event.trade_id LIMIT 1) AS trade
LEFT JOIN LATERAL (SELECT * FROM trail WHERE trail.trade_id = event.trade_id LIMIT 1) AS trail
    ON trade.order_type = 'trailing_stop' AND event.status = 'HELD'
LEFT JOIN LATERAL (
    SELECT later.trade_id FROM trade AS later
    WHERE later.customer_id = $1 AND later.seq > trade.seq AND later.replaces = trade.trade_id
      AND later.status <> 'REJECTED'
    ORDER BY later.seq DESC LIMIT 1
) AS successor ON event.status = 'REPLACED'
LEFT JOIN LATERAL (
    SELECT * FROM execution
    WHERE execution.venue = trade.venue AND execution.execution_id = event.execution_id
      AND execution.trade_id = event.trade_id
    UNION ALL
    SELECT * FROM execution
    WHERE execution.trade_id = event.trade_id AND execution.execution_id = event.execution_id
      AND execution.venue <> trade.venue AND event.execution_id IS NOT NULL
    LIMIT 1
) AS execution ON event.step IN ('executed', 'busted', 'corrected')
LEFT JOIN LATERAL (
    SELECT bust.transfer_id FROM bust
    WHERE bust.venue = execution.venue AND bust.execution_id = execution.execution_id LIMIT 1
) AS bust ON event.step = 'busted'
LEFT JOIN LATERAL (
    SELECT posting.amount FROM posting
    WHERE posting.owner_id = $1 AND posting.asset = trade.symbol
      AND posting.transfer_id = CASE event.step WHEN 'busted' THEN bust.transfer_id ELSE execution.transfer_id END
    LIMIT 1
) AS posting ON execution.execution_id IS NOT NULL
LEFT JOIN LATERAL (
    SELECT account.balance FROM account WHERE account.owner_id = $1 AND account.asset = trade.symbol LIMIT 1
) AS account ON execution.execution_id IS NOT NULL
ORDER BY event.seq

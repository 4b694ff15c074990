-- From schema 2 (in broker_before) to schema 3 (in broker, just installed and empty). Events get their customer, a number
-- over all of the customer's events, and the figures that the trade had: these follow from the executions up to then.

ALTER TABLE customer DISABLE TRIGGER USER;
ALTER TABLE account DISABLE TRIGGER USER;
ALTER TABLE transfer DISABLE TRIGGER USER;
ALTER TABLE posting DISABLE TRIGGER USER;
ALTER TABLE trade DISABLE TRIGGER USER;
ALTER TABLE execution DISABLE TRIGGER USER;
ALTER TABLE bust DISABLE TRIGGER USER;
ALTER TABLE event DISABLE TRIGGER USER;

INSERT INTO customer OVERRIDING SYSTEM VALUE SELECT * FROM broker_before.customer;
SELECT setval(pg_get_serial_sequence('customer', 'customer_id'), greatest(max(customer_id), 1000)) FROM customer;
INSERT INTO api_key SELECT * FROM broker_before.api_key;
INSERT INTO control SELECT * FROM broker_before.control;
INSERT INTO risk_limit SELECT * FROM broker_before.risk_limit;
INSERT INTO account SELECT * FROM broker_before.account;
INSERT INTO transfer SELECT transfer_id, kind::text::transfer_kind, reference, customer_id, at FROM broker_before.transfer;
INSERT INTO posting SELECT * FROM broker_before.posting;
INSERT INTO trade (trade_id, customer_id, seq, symbol, side, quantity, status, reason, venue, order_type, time_in_force,
        limit_price, stop_price, max_price, hold, acknowledged, cancel_requested, filled_quantity, filled_value, events,
        idempotency_key, client_order_id, replaces, replaces_filled, created_at, updated_at)
    SELECT trade_id, customer_id, seq, symbol, side::text::side, quantity, status::text::trade_status, reason, venue,
           order_type::text::order_type, time_in_force::text::time_in_force, limit_price, stop_price, max_price, hold,
           acknowledged, cancel_requested, filled_quantity, filled_value, events, idempotency_key, client_order_id,
           replaces, replaces_filled, created_at, updated_at
    FROM broker_before.trade;
INSERT INTO execution SELECT * FROM broker_before.execution;
INSERT INTO bust SELECT * FROM broker_before.bust;
INSERT INTO margin_day SELECT * FROM broker_before.margin_day;
INSERT INTO price_sample SELECT * FROM broker_before.price_sample;
INSERT INTO corporate_action SELECT * FROM broker_before.corporate_action;
INSERT INTO inbox OVERRIDING SYSTEM VALUE SELECT * FROM broker_before.inbox;
SELECT setval(pg_get_serial_sequence('inbox', 'inbox_id'), max(inbox_id)) FROM inbox HAVING max(inbox_id) > 0;

-- Within one commit all events have one time: there the order of the trades is as good as any, each trade's own is kept.
-- The clock may have been set back between two commits: an event comes no earlier than those of its trade before it.
INSERT INTO event (customer_id, seq, trade_id, number, step, status, reason, filled_quantity, filled_value, acknowledged,
        cancel_requested, execution_id, at)
    SELECT trade.customer_id,
           row_number() OVER (PARTITION BY trade.customer_id ORDER BY event.not_before, trade.seq, event.number),
           event.trade_id, event.number, event.step::text::step, event.status::text::trade_status, event.reason,
           coalesce(sum(execution.last_qty) OVER so_far, 0), coalesce(sum(execution.last_qty * execution.last_px) OVER so_far, 0),
           bool_or(event.step IN ('accepted', 'executed')) OVER so_far,
           bool_or(event.step = 'cancel_requested') OVER so_far,
           event.execution_id, event.at
    FROM (SELECT *, max(at) OVER (PARTITION BY trade_id ORDER BY number) AS not_before FROM broker_before.event) AS event
    JOIN broker_before.trade USING (trade_id)
    LEFT JOIN broker_before.execution
        ON event.step = 'executed' AND execution.trade_id = event.trade_id AND execution.execution_id = event.execution_id
    WINDOW so_far AS (PARTITION BY event.trade_id ORDER BY event.number);

ALTER TABLE customer ENABLE TRIGGER USER;
ALTER TABLE account ENABLE TRIGGER USER;
ALTER TABLE transfer ENABLE TRIGGER USER;
ALTER TABLE posting ENABLE TRIGGER USER;
ALTER TABLE trade ENABLE TRIGGER USER;
ALTER TABLE execution ENABLE TRIGGER USER;
ALTER TABLE bust ENABLE TRIGGER USER;
ALTER TABLE event ENABLE TRIGGER USER;

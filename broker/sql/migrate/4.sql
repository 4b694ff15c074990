-- From schema 3 (in broker_before) to schema 4 (in broker, just installed and empty). No order belonged to a group, and the
-- quantity of an order never changed.

ALTER TABLE customer DISABLE TRIGGER USER;
ALTER TABLE transfer DISABLE TRIGGER USER;
ALTER TABLE posting DISABLE TRIGGER USER;
ALTER TABLE trade DISABLE TRIGGER hold_of_new_trades;
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
        idempotency_key, client_order_id, replaces, replaces_filled, order_class, extended_hours, triggered, created_at,
        updated_at, ended_at)
    SELECT trade_id, customer_id, seq, symbol, side::text::side, quantity, status::text::trade_status, reason, venue,
           order_type::text::order_type, time_in_force::text::time_in_force, limit_price, stop_price, max_price, hold,
           acknowledged, cancel_requested, filled_quantity, filled_value, events, idempotency_key, client_order_id,
           replaces, replaces_filled, 'simple', false, false, created_at, updated_at,
           ended.at
    FROM broker_before.trade
    LEFT JOIN (
        SELECT trade_id, min(at) AS at FROM broker_before.event
        WHERE status IN ('FILLED', 'REJECTED', 'CANCELLED', 'EXPIRED', 'REPLACED') GROUP BY trade_id
    ) AS ended USING (trade_id);
INSERT INTO execution SELECT * FROM broker_before.execution;
INSERT INTO bust SELECT * FROM broker_before.bust;
INSERT INTO event (customer_id, seq, trade_id, number, step, status, reason, filled_quantity, filled_value, acknowledged,
        cancel_requested, quantity, execution_id, at)
    SELECT event.customer_id, event.seq, event.trade_id, event.number, event.step::text::step,
           event.status::text::trade_status, event.reason, event.filled_quantity, event.filled_value, event.acknowledged,
           event.cancel_requested, trade.quantity, event.execution_id, event.at
    FROM broker_before.event JOIN broker_before.trade USING (trade_id);
INSERT INTO webhook SELECT * FROM broker_before.webhook;
INSERT INTO bar SELECT * FROM broker_before.bar;
INSERT INTO margin_day SELECT * FROM broker_before.margin_day;
INSERT INTO price_sample SELECT * FROM broker_before.price_sample;
INSERT INTO corporate_action SELECT * FROM broker_before.corporate_action;
INSERT INTO inbox OVERRIDING SYSTEM VALUE SELECT * FROM broker_before.inbox;
SELECT setval(pg_get_serial_sequence('inbox', 'inbox_id'), max(inbox_id)) FROM inbox HAVING max(inbox_id) > 0;

ALTER TABLE customer ENABLE TRIGGER USER;
ALTER TABLE transfer ENABLE TRIGGER USER;
ALTER TABLE posting ENABLE TRIGGER USER;
ALTER TABLE trade ENABLE TRIGGER hold_of_new_trades;
ALTER TABLE execution ENABLE TRIGGER USER;
ALTER TABLE bust ENABLE TRIGGER USER;
ALTER TABLE event ENABLE TRIGGER USER;

-- From schema 1 (in broker_before) to schema 2 (in broker, just installed and empty). What is new gets the value that it
-- would have had: every trade was a market order, and the cost of each position is worked out from its executions.

ALTER TABLE customer DISABLE TRIGGER USER;
ALTER TABLE account DISABLE TRIGGER USER;
ALTER TABLE transfer DISABLE TRIGGER USER;
ALTER TABLE posting DISABLE TRIGGER USER;
ALTER TABLE trade DISABLE TRIGGER USER;
ALTER TABLE execution DISABLE TRIGGER USER;
ALTER TABLE event DISABLE TRIGGER USER;

INSERT INTO customer OVERRIDING SYSTEM VALUE SELECT * FROM broker_before.customer;
SELECT setval(pg_get_serial_sequence('customer', 'customer_id'), greatest(max(customer_id), 1000)) FROM customer;
INSERT INTO api_key SELECT * FROM broker_before.api_key;

INSERT INTO account (owner_id, asset, balance, held, floor, version, updated_at)
    SELECT owner_id, asset, balance, held, floor, version, updated_at FROM broker_before.account;
INSERT INTO transfer (transfer_id, kind, reference, customer_id, at)
    SELECT transfer_id, kind::text::transfer_kind, reference,
           coalesce((SELECT max(owner_id) FROM broker_before.posting WHERE posting.transfer_id = transfer.transfer_id), 0), at
    FROM broker_before.transfer;
INSERT INTO posting (transfer_id, owner_id, asset, amount)
    SELECT transfer_id, owner_id, asset, amount FROM broker_before.posting;

INSERT INTO trade (trade_id, customer_id, seq, symbol, side, quantity, status, reason, venue, order_type, time_in_force,
        max_price, hold, acknowledged, cancel_requested, filled_quantity, filled_value, events, idempotency_key,
        created_at, updated_at)
    SELECT trade_id, customer_id, seq, symbol, side::text::side, quantity, status::text::trade_status, reason, 'sim',
           'market', 'day', CASE WHEN side = 'BUY' AND hold > 0 THEN hold + filled_value END, hold, filled_quantity > 0,
           false, filled_quantity, filled_value, events, idempotency_key, created_at, updated_at
    FROM broker_before.trade;
INSERT INTO execution (venue, execution_id, trade_id, last_qty, last_px, fee, gain, suspense, transfer_id, at)
    SELECT venue, execution_id, trade_id, last_qty, last_px, 0, 0, false, transfer_id, at FROM broker_before.execution;
INSERT INTO event (trade_id, number, step, status, reason, execution_id, at)
    SELECT trade_id, number,
           (CASE WHEN number = 1 THEN 'placed' WHEN status = 'IN PROGRESS' THEN 'started'
                 WHEN execution_id IS NOT NULL THEN 'executed' ELSE 'ended' END)::step,
           status::text::trade_status, reason, execution_id, at
    FROM broker_before.event;
INSERT INTO inbox OVERRIDING SYSTEM VALUE SELECT * FROM broker_before.inbox;
SELECT setval(pg_get_serial_sequence('inbox', 'inbox_id'), max(inbox_id)) FROM inbox HAVING max(inbox_id) > 0;

-- Average cost, execution by execution, as broker/core/cost_basis.py works it out from now on.
DO $$
DECLARE
    each record;
    position account;
    cost_out bigint;
    sale_gain bigint;
BEGIN
    FOR each IN
        SELECT trade.customer_id, trade.symbol, trade.side, execution.*, execution.last_qty * execution.last_px AS value,
               coalesce(sum(CASE trade.side WHEN 'BUY' THEN last_qty ELSE -last_qty END) OVER (
                   PARTITION BY trade.customer_id, trade.symbol ORDER BY execution.at, execution.transfer_id
                   ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS quantity_before
        FROM execution JOIN trade USING (trade_id)
        ORDER BY execution.at, execution.transfer_id
    LOOP
        SELECT * INTO position FROM account WHERE owner_id = each.customer_id AND asset = each.symbol;
        IF each.side = 'BUY' THEN
            cost_out := -each.value;
            sale_gain := 0;
        ELSE
            cost_out := position.cost * each.last_qty / greatest(each.quantity_before, each.last_qty);
            sale_gain := each.value - cost_out;
        END IF;
        UPDATE account SET cost = cost - cost_out, gain = gain + sale_gain
            WHERE owner_id = each.customer_id AND asset = each.symbol;
        UPDATE posting SET cost = -cost_out, gain = sale_gain
            WHERE owner_id = each.customer_id AND transfer_id = each.transfer_id AND asset = each.symbol;
        UPDATE execution SET gain = sale_gain WHERE venue = each.venue AND execution_id = each.execution_id;
    END LOOP;
END $$;

ALTER TABLE customer ENABLE TRIGGER USER;
ALTER TABLE account ENABLE TRIGGER USER;
ALTER TABLE transfer ENABLE TRIGGER USER;
ALTER TABLE posting ENABLE TRIGGER USER;
ALTER TABLE trade ENABLE TRIGGER USER;
ALTER TABLE execution ENABLE TRIGGER USER;
ALTER TABLE event ENABLE TRIGGER USER;

-- What a settled trade writes, in one transaction of one client (bench/pgbench.py).
\set customer random(1, :customers)
\set symbol random(1, :symbols)
\set house -(10 * :client_id + 1)
BEGIN;
UPDATE account SET version = version + 1
    WHERE owner_id = 1000 + :customer AND asset = '$USD'
    RETURNING version, uuidv7() AS trade_id, uuidv7() AS transfer_id \gset
INSERT INTO trade (trade_id, customer_id, seq, symbol, side, quantity, status, reason, venue, order_type, time_in_force,
        max_price, hold, acknowledged, cancel_requested, filled_quantity, filled_value, events, order_class,
        extended_hours, triggered, created_at, updated_at)
    VALUES (:trade_id, 1000 + :customer, :version, 'T' || :symbol::int, 'BUY', 1, 'IN PROGRESS',
        'Sent to the exchange, with $105.0000 reserved.', 'sim', 'market', 'day',
        1050000, 1050000, false, false, 0, 0, 2, 'simple', false, false, now(), now());
INSERT INTO event (customer_id, seq, trade_id, number, step, status, reason, filled_quantity, filled_value, acknowledged,
        cancel_requested, quantity, execution_id, at)
    VALUES (1000 + :customer, 3 * :version::bigint - 2, :trade_id, 1, 'placed', 'PLACED',
            'Stored; its turn comes when your earlier trades are done.', 0, 0, false, false, 1, NULL, now()),
        (1000 + :customer, 3 * :version::bigint - 1, :trade_id, 2, 'started', 'IN PROGRESS',
            'Sent to the exchange, with $105.0000 reserved.', 0, 0, false, false, 1, NULL, now()),
        (1000 + :customer, 3 * :version::bigint, :trade_id, 3, 'executed', 'FILLED',
            'Filled 1 T1 at $100.00 on average.', 1, 1000000, true, false, 1, :trade_id::text || '-1', now());
UPDATE trade SET status = 'FILLED', reason = 'Filled 1 T1 at $100.00 on average.', hold = 0, filled_quantity = 1,
        filled_value = 1000000, acknowledged = true, events = 3, updated_at = now(), ended_at = now()
    WHERE trade_id = :trade_id;
INSERT INTO transfer (transfer_id, kind, reference, customer_id, at)
    VALUES (:transfer_id, 'fill', 'sim' || chr(58) || :trade_id::text || '-1', 1000 + :customer, now());
INSERT INTO posting (transfer_id, owner_id, asset, amount, cost, gain)
    VALUES (:transfer_id, 1000 + :customer, '$USD', -1000000, 0, 0), (:transfer_id, :house, '$USD', 1000000, 0, 0),
        (:transfer_id, 1000 + :customer, 'T' || :symbol::int, 1, 1000000, 0),
        (:transfer_id, :house, 'T' || :symbol::int, -1, 0, 0);
INSERT INTO execution (venue, execution_id, trade_id, last_qty, last_px, fee, gain, suspense, transfer_id, at)
    VALUES ('sim', :trade_id::text || '-1', :trade_id, 1, 1000000, 0, 0, false, :transfer_id, now());
END;

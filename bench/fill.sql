-- What bench/fill.py fills a database with: functions of its session, each of which writes a range of numbers.
--
-- Customer number n (from 0) has the id 1001 + n, an API key, $1,000,000 to begin with, and a cash account. Past trades
-- have numbers as well, in the order of their times: in each run of as many trades as there are customers everybody has
-- one, and neighbours are far apart. So a customer's rows lie far from each other, as in a database that grew.
--
-- A customer's 1st, 3rd, 5th … trade buys 10 shares of a symbol, the one after it sells 5 of them. A symbol is always
-- bought at the same price: the cost of a position is then its shares times that price, without a look at earlier trades.

CREATE TEMP TABLE symbol (number int PRIMARY KEY, symbol text NOT NULL, price bigint NOT NULL);

-- A UUIDv7 of this time (ms); what is random in others is a hash.
CREATE FUNCTION pg_temp.id_at(at timestamptz, what text) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT overlay(overlay(md5(what)
        PLACING lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' FROM 1) PLACING '8' FROM 17)::uuid
$$;

CREATE FUNCTION pg_temp.dollars(amount bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT '$' || to_char(amount / 10000.0, 'FM999,999,990.00')
$$;

CREATE FUNCTION pg_temp.fill_customers(first bigint, last bigint, began timestamptz, every interval)
    RETURNS void LANGUAGE sql AS $$
WITH made AS MATERIALIZED (
    SELECT 1001 + number AS customer_id, began + number * every AS at,
           pg_temp.id_at(began + number * every, 'opening ' || number) AS transfer_id
    FROM generate_series(first, last) AS number
), customers AS (
    INSERT INTO customer (customer_id, name, account_type, created_at) OVERRIDING SYSTEM VALUE
        SELECT customer_id, 'Customer ' || customer_id, 'cash', at FROM made
), keys AS (
    INSERT INTO api_key (key_id, customer_id, secret_hash, created_at)
        SELECT 'key_' || left(md5('key ' || customer_id), 16), customer_id,
               sha256(convert_to(md5('secret ' || customer_id), 'UTF8')), at
        FROM made
), transfers AS (
    INSERT INTO transfer (transfer_id, kind, reference, customer_id, at)
        SELECT transfer_id, 'cash', 'opening:' || customer_id, customer_id, at FROM made
)
INSERT INTO posting (transfer_id, owner_id, asset, amount)
    SELECT transfer_id, line.owner_id, '$USD', line.amount
    FROM made CROSS JOIN LATERAL (VALUES (customer_id, 10000000000), (-2, -10000000000)) AS line (owner_id, amount)
$$;

CREATE FUNCTION pg_temp.fill_trades(first bigint, last bigint, customers bigint, stride bigint, began timestamptz,
        every interval, placed_reason text) RETURNS void LANGUAGE sql AS $$
WITH numbered AS (
    -- `stride` and the number of customers have no common factor: so within a run nobody's turn comes twice.
    SELECT number, 1001 + number % customers * stride % customers AS customer_id, number / customers AS earlier,
           began + number * every AS placed_at, began + number * every + interval '5 ms' AS filled_at
    FROM generate_series(first, last) AS number
), drawn AS (
    SELECT numbered.*, symbol.symbol, symbol.price AS bought_at, earlier % 2 = 0 AS buys,
           CASE earlier % 2 WHEN 0 THEN symbol.price ELSE symbol.price + (numbered.number % 201 - 100) * 100 END AS price
    FROM numbered
    JOIN symbol ON symbol.number = (customer_id * 7 + earlier / 2) % (SELECT count(*) FROM symbol)
), past AS MATERIALIZED (
    SELECT number, customer_id, earlier, placed_at, filled_at, symbol, buys, price, side.*,
           side.quantity * price AS value,
           pg_temp.id_at(placed_at, 'trade ' || number) AS trade_id,
           pg_temp.id_at(filled_at, 'fill ' || number) AS transfer_id,
           pg_temp.id_at(placed_at, 'trade ' || number) || '-1' AS execution_id,
           CASE WHEN buys THEN 10 * price ELSE -5 * bought_at END AS cost,
           CASE WHEN buys THEN 0 ELSE 5 * (price - bought_at) END AS gain,
           CASE WHEN buys THEN 10 * price * 105 / 100 END AS max_price,
           'Filled ' || side.quantity || ' ' || symbol || ' at ' || pg_temp.dollars(price) || ' on average.' AS reason
    FROM drawn
    CROSS JOIN LATERAL (SELECT CASE WHEN buys THEN 10 ELSE 5 END AS quantity, CASE WHEN buys THEN 10 ELSE -5 END AS shares,
                               CASE WHEN buys THEN 0 ELSE 300 END AS fee) AS side
    ORDER BY number
), trades AS (
    INSERT INTO trade (trade_id, customer_id, seq, symbol, side, quantity, status, reason, venue, order_type, time_in_force,
            max_price, hold, acknowledged, cancel_requested, filled_quantity, filled_value, events, order_class,
            extended_hours, triggered, created_at, updated_at, ended_at)
        SELECT trade_id, customer_id, earlier + 1, symbol, CASE WHEN buys THEN 'BUY' ELSE 'SELL' END::side, quantity,
               'FILLED', reason, 'sim', 'market', 'day', max_price, 0, true, false, quantity, value, 3, 'simple', false,
               false, placed_at, filled_at, filled_at
        FROM past
), events AS (
    INSERT INTO event (customer_id, seq, trade_id, number, step, status, reason, filled_quantity, filled_value, acknowledged,
            cancel_requested, quantity, execution_id, at)
        SELECT customer_id, 3 * earlier + step.number, trade_id, step.number, step.step::step, step.status::trade_status,
               CASE step.number WHEN 1 THEN placed_reason WHEN 3 THEN reason ELSE 'Sent to the exchange, with '
                   || CASE WHEN buys THEN pg_temp.dollars(max_price) ELSE quantity || ' ' || symbol END || ' reserved.' END,
               CASE step.number WHEN 3 THEN quantity ELSE 0 END, CASE step.number WHEN 3 THEN value ELSE 0 END,
               step.number = 3, false, quantity, CASE step.number WHEN 3 THEN execution_id END,
               CASE step.number WHEN 3 THEN filled_at ELSE placed_at END
        FROM past CROSS JOIN (VALUES (1, 'placed', 'PLACED'), (2, 'started', 'IN PROGRESS'), (3, 'executed', 'FILLED'))
            AS step (number, step, status)
), transfers AS (
    INSERT INTO transfer (transfer_id, kind, reference, customer_id, at)
        SELECT transfer_id, 'fill', 'sim:' || execution_id, customer_id, filled_at FROM past
), executions AS (
    INSERT INTO execution (venue, execution_id, trade_id, last_qty, last_px, fee, gain, suspense, transfer_id, at)
        SELECT 'sim', execution_id, trade_id, quantity, price, fee, gain, false, transfer_id, filled_at FROM past
)
INSERT INTO posting (transfer_id, owner_id, asset, amount, cost, gain)
    SELECT transfer_id, line.*
    FROM past CROSS JOIN LATERAL (VALUES
        (customer_id, '$USD', -shares * price - fee, 0, 0),
        (-1, '$USD', shares * price, 0, 0),
        (customer_id, symbol, shares, cost, gain),
        (-1, symbol, -shares, 0, 0),
        (-3, '$USD', fee, 0, 0)) AS line (owner_id, asset, amount, cost, gain)
    WHERE amount <> 0
$$;

-- Every account from its postings. A customer's cash has as many versions as there were commits about it: two a trade.
CREATE FUNCTION pg_temp.fill_accounts() RETURNS void LANGUAGE sql AS $$
INSERT INTO account (owner_id, asset, balance, floor, cost, gain, version)
    SELECT owner_id, asset, sum(amount), CASE WHEN owner_id < 0 THEN -9000000000000000000 ELSE 0 END, sum(cost), sum(gain),
           CASE WHEN owner_id > 0 AND asset = '$USD' THEN 2 * (count(*) - 1) ELSE 0 END
    FROM posting GROUP BY owner_id, asset
$$;

-- The whole schema of the stockbroker.
--
-- Cash and shares are the same thing here: a row of `account` for each (owner, asset), with what the owner has
-- (`balance`), what is reserved for trades at work (`held`) and how low it may go (`floor`). Money is counted in
-- $0.0001, shares in whole shares, both as BIGINT NOT NULL: a CHECK lets NULL and NUMERIC's NaN pass.
-- A customer's owner_id is its customer_id; the broker's own rows are below zero, a set for each shard, because one
-- row that every trade updates would be a queue of its own: -(10 * shard + 1) is the clearing row (what the exchange
-- owes us or is owed), -(10 * shard + 2) the world outside (deposits and withdrawals).
--
-- What PostgreSQL itself refuses, whatever the application believes:
--   * a balance below its floor, with everything reserved taken off   (CHECK never_overdrawn)
--   * postings of a transfer that do not sum to zero for each asset   (trigger apply_postings)
--   * a balance that is not the sum of its postings: that trigger is the only writer of `balance`
--   * reserved cash or shares that no trade holds: the triggers on `trade` are the only writers of `held`
--   * a change of a finished trade, or one that the table status_change does not have
--   * more filled than ordered, or a status that the figures contradict
--   * the same execution, the same reference, the same client key a second time
--   * any change of history: postings, transfers, executions and events are only ever added
-- The role broker_runtime, which the running broker uses, can read, and can write trades and money only through
-- commit_batch and create_customer.
--
-- One call of commit_batch is one shard's batch: it happens as a whole or not at all. Every customer in it is claimed by
-- the version that its decisions were made on (the version of its cash row counts for all of the customer); if somebody
-- else was faster the call fails with SQLSTATE BR001 and the shard decides again.

CREATE SCHEMA broker;
SET search_path = broker;

CREATE TABLE schema_version (
    version int PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO schema_version (version) VALUES (1);

---------------------------------------------------------------- customers

CREATE TABLE customer (
    customer_id bigint GENERATED ALWAYS AS IDENTITY (START WITH 1001) PRIMARY KEY,
    name text NOT NULL CHECK (length(name) <= 200),
    account_type text NOT NULL CHECK (account_type = 'cash'),
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE api_key (
    key_id text PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customer,
    secret_hash bytea NOT NULL CHECK (octet_length(secret_hash) = 32),  -- SHA-256; the secret itself is nowhere
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);
CREATE INDEX api_key_customer ON api_key (customer_id);

---------------------------------------------------------------- the ledger

CREATE DOMAIN ticker AS text COLLATE "C" CHECK (value ~ '^[A-Z][A-Z0-9.]{0,11}$');
CREATE DOMAIN asset AS text COLLATE "C" CHECK (value = '$USD' OR value ~ '^[A-Z][A-Z0-9.]{0,11}$');
-- '$USD' and not 'USD', which is a listed fund.

CREATE TABLE account (
    owner_id bigint NOT NULL,
    asset asset NOT NULL,
    balance bigint NOT NULL DEFAULT 0,
    held bigint NOT NULL DEFAULT 0,
    floor bigint NOT NULL DEFAULT 0,
    version bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (owner_id, asset),
    CONSTRAINT held_not_negative CHECK (held >= 0),
    CONSTRAINT never_overdrawn CHECK (balance - held >= floor),
    CONSTRAINT customers_have_no_credit CHECK (owner_id < 0 OR floor = 0)
) WITH (fillfactor = 60);  -- room on the page, so that the frequent updates stay off the index

CREATE TYPE transfer_kind AS ENUM ('fill', 'cash');  -- cash: an operator's credit or debit

CREATE TABLE transfer (
    transfer_id uuid PRIMARY KEY,
    kind transfer_kind NOT NULL,
    reference text NOT NULL CHECK (reference <> ''),
    at timestamptz NOT NULL
);
-- One settlement for each execution, one booking for each reference of an operator's.
CREATE UNIQUE INDEX fill_reference ON transfer (reference) WHERE kind = 'fill';
CREATE UNIQUE INDEX cash_reference ON transfer (reference) WHERE kind = 'cash';

CREATE TABLE posting (
    transfer_id uuid NOT NULL,
    owner_id bigint NOT NULL,
    asset asset NOT NULL,
    amount bigint NOT NULL CHECK (amount <> 0),
    PRIMARY KEY (transfer_id, owner_id, asset)
);
-- No foreign keys on posting: apply_postings checks the same for a whole statement at once, at a tenth of the cost.

---------------------------------------------------------------- trades

CREATE TYPE side AS ENUM ('BUY', 'SELL');
CREATE TYPE trade_status AS ENUM
    ('PLACED', 'IN PROGRESS', 'PARTIALLY FILLED', 'FILLED', 'REJECTED', 'CANCELLED', 'EXPIRED');

CREATE TABLE status_change (
    before trade_status NOT NULL,
    after trade_status NOT NULL,
    PRIMARY KEY (before, after)
);
INSERT INTO status_change VALUES
    ('PLACED', 'IN PROGRESS'), ('PLACED', 'REJECTED'),
    ('IN PROGRESS', 'PARTIALLY FILLED'), ('IN PROGRESS', 'FILLED'), ('IN PROGRESS', 'REJECTED'),
    ('IN PROGRESS', 'CANCELLED'), ('IN PROGRESS', 'EXPIRED'),
    ('PARTIALLY FILLED', 'PARTIALLY FILLED'), ('PARTIALLY FILLED', 'FILLED'),
    ('PARTIALLY FILLED', 'CANCELLED'), ('PARTIALLY FILLED', 'EXPIRED');

CREATE TABLE trade (
    trade_id uuid PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customer,
    seq bigint NOT NULL CHECK (seq > 0),  -- the customer's 1st, 2nd, 3rd ... trade, in the order placed
    symbol ticker NOT NULL,
    side side NOT NULL,
    quantity bigint NOT NULL CHECK (quantity BETWEEN 1 AND 10000000),
    status trade_status NOT NULL,
    reason text NOT NULL CHECK (reason <> ''),
    hold bigint NOT NULL CHECK (hold >= 0),  -- cash of a BUY, shares of a SELL
    filled_quantity bigint NOT NULL,
    filled_value bigint NOT NULL CHECK (filled_value >= 0),
    events int NOT NULL CHECK (events > 0),  -- how many rows of `event` it has, numbered 1 to this
    idempotency_key text CHECK (length(idempotency_key) BETWEEN 1 AND 200),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    UNIQUE (customer_id, seq),
    CONSTRAINT never_overfilled CHECK (filled_quantity BETWEEN 0 AND quantity),
    CONSTRAINT value_follows_quantity CHECK ((filled_quantity = 0) = (filled_value = 0)),
    CONSTRAINT status_fits_figures CHECK (CASE status
        WHEN 'PLACED' THEN hold = 0 AND filled_quantity = 0
        WHEN 'IN PROGRESS' THEN hold > 0 AND filled_quantity = 0
        WHEN 'PARTIALLY FILLED' THEN filled_quantity BETWEEN 1 AND quantity - 1
        WHEN 'FILLED' THEN hold = 0 AND filled_quantity = quantity
        WHEN 'REJECTED' THEN hold = 0 AND filled_quantity = 0
        ELSE hold = 0 AND filled_quantity < quantity END),
    CONSTRAINT sell_holds_what_it_leaves CHECK
        (side = 'BUY' OR status NOT IN ('IN PROGRESS', 'PARTIALLY FILLED') OR hold = quantity - filled_quantity)
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX trade_idempotency ON trade (customer_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX trade_open ON trade (customer_id, seq) WHERE status IN ('PLACED', 'IN PROGRESS', 'PARTIALLY FILLED');

CREATE TABLE execution (
    venue text NOT NULL,
    execution_id text NOT NULL,
    trade_id uuid NOT NULL REFERENCES trade,
    last_qty bigint NOT NULL CHECK (last_qty > 0),
    last_px bigint NOT NULL CHECK (last_px > 0),
    transfer_id uuid NOT NULL UNIQUE,
    at timestamptz NOT NULL,
    PRIMARY KEY (venue, execution_id)  -- this is what makes a settlement happen exactly once
);
CREATE INDEX execution_trade ON execution (trade_id);

CREATE TABLE event (
    trade_id uuid NOT NULL,
    number int NOT NULL CHECK (number > 0),
    status trade_status NOT NULL,
    reason text NOT NULL,
    execution_id text,
    at timestamptz NOT NULL,
    PRIMARY KEY (trade_id, number)
);

CREATE TABLE inbox (  -- what the exchange said and nothing could be done with: kept for a person to read
    inbox_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cause text NOT NULL,
    venue text NOT NULL,
    payload text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (cause, venue, payload)  -- at-least-once delivery must not fill the disk
);

---------------------------------------------------------------- the rules that need more than a CHECK

CREATE FUNCTION apply_postings() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wanted bigint;
    applied bigint;
BEGIN
    IF EXISTS (SELECT FROM added GROUP BY transfer_id, asset HAVING sum(amount) <> 0) THEN
        RAISE EXCEPTION 'the postings of a transfer do not sum to zero'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'transfer_balances';
    END IF;
    IF EXISTS (SELECT FROM added LEFT JOIN transfer USING (transfer_id) WHERE transfer.transfer_id IS NULL) THEN
        RAISE EXCEPTION 'a posting names a transfer that does not exist'
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'posting_has_transfer';
    END IF;
    SELECT count(*) INTO wanted FROM (SELECT FROM added GROUP BY owner_id, asset) AS touched;
    UPDATE account SET balance = account.balance + delta.amount, updated_at = now()
        FROM (SELECT owner_id, asset, sum(amount)::bigint AS amount FROM added GROUP BY owner_id, asset) AS delta
        WHERE account.owner_id = delta.owner_id AND account.asset = delta.asset;
    GET DIAGNOSTICS applied = ROW_COUNT;
    IF applied <> wanted THEN
        RAISE EXCEPTION 'a posting names an account that does not exist'
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'posting_has_account';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER apply_postings AFTER INSERT ON posting
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION apply_postings();

CREATE FUNCTION hold_of_new_trades() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wanted bigint;
    applied bigint;
BEGIN
    IF EXISTS (SELECT FROM added WHERE status NOT IN ('PLACED', 'IN PROGRESS', 'REJECTED')) THEN
        RAISE EXCEPTION 'a trade begins as PLACED, IN PROGRESS or REJECTED'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'trade_begins_unfilled';
    END IF;
    SELECT count(*) INTO wanted
        FROM (SELECT FROM added WHERE hold > 0 GROUP BY customer_id, CASE side WHEN 'BUY' THEN '$USD' ELSE symbol END) AS t;
    UPDATE account SET held = account.held + delta.hold, updated_at = now()
        FROM (SELECT customer_id, CASE side WHEN 'BUY' THEN '$USD' ELSE symbol END AS asset, sum(hold)::bigint AS hold
              FROM added WHERE hold > 0 GROUP BY 1, 2) AS delta
        WHERE account.owner_id = delta.customer_id AND account.asset = delta.asset;
    GET DIAGNOSTICS applied = ROW_COUNT;
    IF applied <> wanted THEN
        RAISE EXCEPTION 'a trade holds what its customer has no account for'
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'hold_has_account';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER hold_of_new_trades AFTER INSERT ON trade
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION hold_of_new_trades();

CREATE FUNCTION hold_of_changed_trades() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wanted bigint;
    applied bigint;
BEGIN
    IF EXISTS (
        SELECT FROM was LEFT JOIN is_now USING (trade_id, customer_id, seq, symbol, side, quantity, created_at)
        WHERE NOT EXISTS (SELECT FROM status_change WHERE before = was.status AND after = is_now.status)
    ) THEN
        RAISE EXCEPTION 'a trade cannot change in this way: it is finished, or status_change does not have the step'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'status_change_allowed';
    END IF;
    SELECT count(*) INTO wanted
        FROM (SELECT FROM was JOIN is_now USING (trade_id) WHERE is_now.hold <> was.hold
              GROUP BY was.customer_id, CASE was.side WHEN 'BUY' THEN '$USD' ELSE was.symbol END) AS t;
    UPDATE account SET held = account.held + delta.hold, updated_at = now()
        FROM (SELECT was.customer_id, CASE was.side WHEN 'BUY' THEN '$USD' ELSE was.symbol END AS asset,
                     sum(is_now.hold - was.hold)::bigint AS hold
              FROM was JOIN is_now USING (trade_id) WHERE is_now.hold <> was.hold GROUP BY 1, 2) AS delta
        WHERE account.owner_id = delta.customer_id AND account.asset = delta.asset;
    GET DIAGNOSTICS applied = ROW_COUNT;
    IF applied <> wanted THEN
        RAISE EXCEPTION 'a trade holds what its customer has no account for'
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'hold_has_account';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER hold_of_changed_trades AFTER UPDATE ON trade
    REFERENCING OLD TABLE AS was NEW TABLE AS is_now FOR EACH STATEMENT EXECUTE FUNCTION hold_of_changed_trades();

CREATE FUNCTION history_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % is not possible: history is only ever added to', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER history_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON posting
    FOR EACH STATEMENT EXECUTE FUNCTION history_stays();
CREATE TRIGGER history_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON transfer
    FOR EACH STATEMENT EXECUTE FUNCTION history_stays();
CREATE TRIGGER history_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON execution
    FOR EACH STATEMENT EXECUTE FUNCTION history_stays();
CREATE TRIGGER history_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON event
    FOR EACH STATEMENT EXECUTE FUNCTION history_stays();
CREATE TRIGGER history_stays BEFORE DELETE OR TRUNCATE ON trade
    FOR EACH STATEMENT EXECUTE FUNCTION history_stays();
CREATE TRIGGER history_stays BEFORE DELETE OR TRUNCATE ON account
    FOR EACH STATEMENT EXECUTE FUNCTION history_stays();

---------------------------------------------------------------- what the broker calls

CREATE TYPE claim AS (customer_id bigint, version bigint);
CREATE TYPE account_key AS (owner_id bigint, asset text);
CREATE TYPE new_trade AS (trade_id uuid, customer_id bigint, seq bigint, symbol text, side side, quantity bigint,
    idempotency_key text, status trade_status, reason text, hold bigint, events int);
CREATE TYPE trade_figures AS (trade_id uuid, status trade_status, reason text, hold bigint, filled_quantity bigint,
    filled_value bigint, events int);
CREATE TYPE new_transfer AS (transfer_id uuid, kind transfer_kind, reference text);
CREATE TYPE new_posting AS (transfer_id uuid, owner_id bigint, asset text, amount bigint);
CREATE TYPE new_execution AS (venue text, execution_id text, trade_id uuid, last_qty bigint, last_px bigint,
    transfer_id uuid);
CREATE TYPE new_event AS (trade_id uuid, number int, status trade_status, reason text, execution_id text);

-- The order of the steps is part of the rule: releases first, then money moves, then new holds, so that never_overdrawn
-- holds after every step exactly when it holds at the end. House rows come into being here with their floor.
CREATE FUNCTION commit_batch(decided_at timestamptz, claims claim[], opened account_key[], settled trade_figures[],
        transfers new_transfer[], postings new_posting[], executions new_execution[], placed new_trade[],
        started trade_figures[], logged new_event[])
    RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = broker, pg_temp AS $$
DECLARE
    claimed bigint;
    changed bigint;
BEGIN
    UPDATE account SET version = account.version + 1
        FROM unnest(claims) AS c
        WHERE account.owner_id = c.customer_id AND account.asset = '$USD' AND account.version = c.version;
    GET DIAGNOSTICS claimed = ROW_COUNT;
    IF claimed <> cardinality(claims) THEN
        RAISE EXCEPTION 'an account changed after it was read' USING ERRCODE = 'BR001';
    END IF;
    IF cardinality(opened) > 0 THEN
        INSERT INTO account (owner_id, asset, floor)
            SELECT owner_id, asset, CASE WHEN owner_id < 0 THEN -9000000000000000000 ELSE 0 END FROM unnest(opened)
            ON CONFLICT DO NOTHING;
    END IF;
    IF cardinality(settled) > 0 THEN
        UPDATE trade SET status = s.status, reason = s.reason, hold = s.hold, filled_quantity = s.filled_quantity,
                filled_value = s.filled_value, events = s.events, updated_at = decided_at
            FROM unnest(settled) AS s WHERE trade.trade_id = s.trade_id;
        GET DIAGNOSTICS changed = ROW_COUNT;
        IF changed <> cardinality(settled) THEN
            RAISE EXCEPTION 'a trade that is to change does not exist'
                USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'changed_trade_exists';
        END IF;
    END IF;
    IF cardinality(transfers) > 0 THEN
        INSERT INTO transfer SELECT transfer_id, kind, reference, decided_at FROM unnest(transfers);
        INSERT INTO posting SELECT * FROM unnest(postings);
    END IF;
    IF cardinality(executions) > 0 THEN
        INSERT INTO execution SELECT *, decided_at FROM unnest(executions);
    END IF;
    IF cardinality(placed) > 0 THEN
        INSERT INTO trade SELECT trade_id, customer_id, seq, symbol, side, quantity, status, reason, hold, 0, 0, events,
                idempotency_key, decided_at, decided_at
            FROM unnest(placed);
    END IF;
    IF cardinality(started) > 0 THEN
        UPDATE trade SET status = s.status, reason = s.reason, hold = s.hold, filled_quantity = s.filled_quantity,
                filled_value = s.filled_value, events = s.events, updated_at = decided_at
            FROM unnest(started) AS s WHERE trade.trade_id = s.trade_id;
        GET DIAGNOSTICS changed = ROW_COUNT;
        IF changed <> cardinality(started) THEN
            RAISE EXCEPTION 'a trade that is to change does not exist'
                USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'changed_trade_exists';
        END IF;
    END IF;
    IF cardinality(logged) > 0 THEN
        INSERT INTO event SELECT *, decided_at FROM unnest(logged);
    END IF;
END $$;

-- A customer with an open cash account, its first key, and its opening deposit where there is one.
CREATE FUNCTION create_customer(name text, account_type text, key_id text, secret_hash bytea, cash bigint,
        transfer_id uuid, external_owner bigint)
    RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = broker, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    created bigint;
BEGIN
    INSERT INTO customer (name, account_type) VALUES (name, account_type) RETURNING customer_id INTO created;
    INSERT INTO api_key (key_id, customer_id, secret_hash) VALUES (key_id, created, secret_hash);
    INSERT INTO account (owner_id, asset) VALUES (created, '$USD');
    IF cash > 0 THEN
        INSERT INTO account (owner_id, asset, floor) VALUES (external_owner, '$USD', -9000000000000000000)
            ON CONFLICT DO NOTHING;
        INSERT INTO transfer VALUES (transfer_id, 'cash', 'opening:' || created, now());
        INSERT INTO posting VALUES (transfer_id, created, '$USD', cash), (transfer_id, external_owner, '$USD', -cash);
    END IF;
    RETURN created;
END $$;

---------------------------------------------------------------- what people and reports read

CREATE VIEW balances AS
    SELECT owner_id AS customer_id, balance AS amount, held, balance - held AS available, updated_at AS last_modified
    FROM account WHERE asset = '$USD' AND owner_id > 0;

CREATE VIEW positions AS
    SELECT owner_id AS customer_id, asset AS symbol, balance AS quantity, held, balance - held AS available,
           updated_at AS last_modified
    FROM account WHERE asset <> '$USD' AND owner_id > 0 AND balance > 0;

---------------------------------------------------------------- who may do what

DO $$
BEGIN
    CREATE ROLE broker_runtime NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;  -- roles belong to the whole cluster: another database of it made this one
END $$;
GRANT broker_runtime TO CURRENT_USER;
REVOKE ALL ON SCHEMA broker FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA broker FROM PUBLIC;
GRANT USAGE ON SCHEMA broker TO broker_runtime;
GRANT SELECT ON ALL TABLES IN SCHEMA broker TO broker_runtime;
GRANT EXECUTE ON FUNCTION commit_batch, create_customer TO broker_runtime;
GRANT INSERT (key_id, customer_id, secret_hash), UPDATE (revoked_at) ON api_key TO broker_runtime;
GRANT UPDATE (status) ON customer TO broker_runtime;
GRANT INSERT (cause, venue, payload) ON inbox TO broker_runtime;

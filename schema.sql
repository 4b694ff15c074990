-- The whole schema of the stockbroker.
--
-- Cash and shares are the same thing here: a row of `account` for each (owner, asset), with what the owner has
-- (`balance`), what is reserved for trades at work (`held`) and how low it may go (`floor`). Money is counted in
-- $0.0001, shares in whole shares, both as BIGINT NOT NULL: a CHECK lets NULL and NUMERIC's NaN pass.
-- A customer's owner_id is its customer_id; the broker's own rows are below zero, a set for each shard, because one
-- row that every trade updates would be a queue of its own: -(10 * shard + 1) is the clearing row (what the exchange
-- owes us or is owed), + 2 the world outside (deposits and withdrawals), + 3 fees, + 4 what customers owe since an
-- execution was taken back from them, + 5 executions that no customer can have, + 6 corporate actions.
-- A customer's row of shares also has what they cost and what sales have gained: sums of its postings, as the balance is.
--
-- What PostgreSQL itself refuses, whatever the application believes:
--   * a balance below its floor, with everything reserved taken off   (CHECK never_overdrawn); the floor is 0 for
--     everything but the cash of a margin account
--   * postings of a transfer that do not sum to zero for each asset   (trigger apply_postings)
--   * a balance that is not the sum of its postings: that trigger is the only writer of `balance`
--   * reserved cash or shares that no trade holds: the triggers on `trade` are the only writers of `held`
--   * a change of a finished trade (but for one more event), or a step that the table status_change does not have
--   * more filled than ordered, or a status that the figures contradict
--   * the same execution, the same reference, the same client key a second time
--   * a key that was revoked and opens again, or ends later than it was to, or opens more
--   * any change of history: postings, transfers, executions, events and audit records are only ever added
-- What it cannot refuse its own superuser it makes visible: all events and every operator's request are in chains of
-- hashes (`audit`), in which no record can be changed or left out without all that follow it.
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
    applied_at timestamptz NOT NULL DEFAULT now(),
    works_with int  -- brokers of this schema version and newer ones work on it; null: of this one only
);
INSERT INTO schema_version (version, works_with) VALUES (5, 4);

---------------------------------------------------------------- customers

CREATE TABLE customer (
    customer_id bigint GENERATED ALWAYS AS IDENTITY (START WITH 1001) PRIMARY KEY,
    name text NOT NULL CHECK (length(name) <= 200),
    account_type text NOT NULL CHECK (account_type IN ('cash', 'margin')),
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    created_at timestamptz NOT NULL DEFAULT now()
);
-- Brokers look every few seconds for who is suspended and which keys were revoked.
CREATE INDEX customer_suspended ON customer (customer_id) WHERE status = 'suspended';

CREATE TABLE api_key (
    key_id text PRIMARY KEY,
    customer_id bigint REFERENCES customer,  -- whose it is; null for an operator's
    secret_hash bytea NOT NULL CHECK (octet_length(secret_hash) = 32),  -- SHA-256; the secret itself is nowhere
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz,
    scopes text[] NOT NULL DEFAULT '{read,trade}',
    expires_at timestamptz,  -- null: never
    replaced_by text REFERENCES api_key,  -- the key that was made when this one was rotated
    CONSTRAINT scopes_are_known CHECK (cardinality(scopes) > 0 AND scopes <@ '{read,trade,admin}'),
    CONSTRAINT admin_is_no_customer CHECK ((customer_id IS NULL) = ('admin' = ANY (scopes)))
);
CREATE INDEX api_key_customer ON api_key (customer_id);
CREATE INDEX api_key_revoked ON api_key (revoked_at) WHERE revoked_at IS NOT NULL;
CREATE INDEX api_key_ending ON api_key (expires_at) WHERE expires_at IS NOT NULL;

-- What is switched: by operators the kill switch ('all', 'customer:1001'), halted and restricted symbols ('halt:AAPL',
-- 'restrict:AAPL'); by a customer its own new orders ('self:1001'). A row is the switch being on.
CREATE TABLE control (
    scope text PRIMARY KEY CHECK (scope ~ '^(all|(customer|self):[0-9]+|(halt|restrict):[A-Z][A-Z0-9.]{0,11})$'),
    reason text NOT NULL CHECK (reason <> ''),
    since timestamptz NOT NULL DEFAULT now()
);

-- Risk limits other than the configured ones, for an account type ('type:cash') or one customer ('customer:1001').
CREATE TABLE risk_limit (
    scope text NOT NULL CHECK (scope ~ '^(type:(cash|margin)|customer:[0-9]+)$'),
    name text NOT NULL,
    value bigint NOT NULL CHECK (value >= 0),
    PRIMARY KEY (scope, name)
);

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
    cost bigint NOT NULL DEFAULT 0,  -- of a customer's shares: what those that are there cost
    gain bigint NOT NULL DEFAULT 0,  -- ... and what sales have brought above their cost
    version bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (owner_id, asset),
    CONSTRAINT held_not_negative CHECK (held >= 0),
    CONSTRAINT never_overdrawn CHECK (balance - held >= floor),
    CONSTRAINT floor_is_not_above_zero CHECK (floor <= 0)
) WITH (fillfactor = 60);  -- room on the page, so that the frequent updates stay off the index
-- Who has (or had) shares of a symbol. No balance in its predicate: an index that names a column keeps every update of
-- that column from being one of those.
CREATE INDEX account_shares ON account (asset, owner_id) WHERE owner_id > 0 AND asset <> '$USD';


CREATE TYPE transfer_kind AS ENUM (
    'fill',       -- a settled execution, of a correction too
    'cash',       -- an operator's credit or debit
    'suspense',   -- an execution that no customer can have
    'bust',       -- an execution that the exchange took back
    'corporate',  -- a split, a symbol change, a dividend
    'reset'       -- an operator put an account into a given state
);

CREATE TABLE transfer (
    transfer_id uuid PRIMARY KEY,
    kind transfer_kind NOT NULL,
    reference text NOT NULL CHECK (reference <> ''),
    customer_id bigint NOT NULL,  -- whom it is about
    at timestamptz NOT NULL
);
-- One booking for each reference of an operator's. (One settlement for each execution, and one bust: their own keys.)
CREATE UNIQUE INDEX cash_reference ON transfer (reference) WHERE kind = 'cash';
CREATE UNIQUE INDEX corporate_reference ON transfer (reference) WHERE kind = 'corporate';
CREATE UNIQUE INDEX reset_reference ON transfer (reference) WHERE kind = 'reset';

CREATE TABLE posting (
    transfer_id uuid NOT NULL,
    owner_id bigint NOT NULL,
    asset asset NOT NULL,
    amount bigint NOT NULL,
    cost bigint NOT NULL DEFAULT 0,
    gain bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (owner_id, transfer_id, asset),  -- in this order: a customer's postings, newest last, are one range
    CONSTRAINT posting_moves_something CHECK (amount <> 0 OR cost <> 0 OR gain <> 0)
);
-- No foreign keys on posting, nor on trade and execution: triggers check the same for a whole statement at once, at a
-- tenth of the cost, and nothing that they lead to can be deleted.

---------------------------------------------------------------- trades

CREATE TYPE side AS ENUM ('BUY', 'SELL');
CREATE TYPE trade_status AS ENUM
    ('PLACED', 'HELD', 'IN PROGRESS', 'PARTIALLY FILLED', 'FILLED', 'REJECTED', 'CANCELLED', 'EXPIRED', 'REPLACED');
CREATE TYPE order_type AS ENUM ('market', 'limit', 'stop', 'stop_limit', 'trailing_stop');
CREATE TYPE time_in_force AS ENUM ('day', 'gtc', 'ioc', 'fok', 'opg', 'cls');
CREATE TYPE order_class AS ENUM ('simple', 'bracket', 'oco', 'oto');
CREATE TYPE role AS ENUM ('entry', 'take_profit', 'stop_loss');
CREATE TYPE step AS ENUM ('placed', 'held', 'triggered', 'restated', 'started', 'accepted', 'executed', 'cancel_requested', 'ended', 'suspense', 'busted',
    'corrected');

CREATE TABLE status_change (
    before trade_status NOT NULL,
    after trade_status NOT NULL,
    PRIMARY KEY (before, after)
);
INSERT INTO status_change VALUES
    ('PLACED', 'HELD'), ('PLACED', 'IN PROGRESS'), ('PLACED', 'REJECTED'), ('PLACED', 'CANCELLED'), ('PLACED', 'REPLACED'),
    ('HELD', 'IN PROGRESS'), ('HELD', 'REJECTED'), ('HELD', 'CANCELLED'), ('HELD', 'EXPIRED'), ('HELD', 'REPLACED'),
    ('IN PROGRESS', 'PARTIALLY FILLED'), ('IN PROGRESS', 'FILLED'), ('IN PROGRESS', 'REJECTED'),
    ('IN PROGRESS', 'CANCELLED'), ('IN PROGRESS', 'EXPIRED'), ('IN PROGRESS', 'REPLACED'),
    ('PARTIALLY FILLED', 'PARTIALLY FILLED'), ('PARTIALLY FILLED', 'FILLED'),
    ('PARTIALLY FILLED', 'CANCELLED'), ('PARTIALLY FILLED', 'EXPIRED'), ('PARTIALLY FILLED', 'REPLACED');

CREATE TABLE trade (
    trade_id uuid PRIMARY KEY,
    customer_id bigint NOT NULL,  -- exists: hold_of_new_trades checks it, a statement at a time
    seq bigint NOT NULL,  -- the customer's 1st, 2nd, 3rd ... trade, in the order placed
    symbol ticker NOT NULL,
    side side NOT NULL,
    quantity bigint NOT NULL,
    status trade_status NOT NULL,
    reason text NOT NULL,
    venue text NOT NULL,
    order_type order_type NOT NULL,
    time_in_force time_in_force NOT NULL,
    limit_price bigint,
    stop_price bigint,
    max_price bigint,  -- of a BUY without a limit: the most that the exchange may spend on all of it
    hold bigint NOT NULL,  -- cash of a BUY, shares of a SELL
    acknowledged boolean NOT NULL,  -- the exchange has said that it has it
    cancel_requested boolean NOT NULL,
    filled_quantity bigint NOT NULL,
    filled_value bigint NOT NULL,
    events int NOT NULL,  -- how many rows of `event` it has, numbered 1 to this
    idempotency_key text,
    client_order_id text,
    replaces uuid,  -- the trade in whose place it stands, or was to stand
    replaces_filled bigint,  -- ... and what that had filled; null where it was never sent
    order_class order_class NOT NULL,
    group_id uuid,  -- the first order of its group: those that belong together, and those in their places
    role role,
    trail_amount bigint,  -- of a trailing stop: how far behind the best price it stays
    trail_bps int,  -- ... or that in 1/10,000 of the best price
    extended_hours boolean NOT NULL,
    triggered boolean NOT NULL,  -- its price was reached while it was held here
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    ended_at timestamptz,  -- updated_at goes on: an execution may be taken back later
    UNIQUE (customer_id, seq)
    -- What its figures have to obey: rules_of_trades, below.
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX trade_idempotency ON trade (customer_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE UNIQUE INDEX trade_client_order_id ON trade (customer_id, client_order_id) WHERE client_order_id IS NOT NULL;
CREATE INDEX trade_open ON trade (customer_id, seq) WHERE status IN ('PLACED', 'HELD', 'IN PROGRESS', 'PARTIALLY FILLED');
CREATE INDEX trade_group ON trade (group_id) WHERE group_id IS NOT NULL;
CREATE INDEX trade_replaces ON trade (replaces) WHERE replaces IS NOT NULL;

CREATE TABLE trail (  -- the best price that the market had since a trailing stop began to follow it
    trade_id uuid PRIMARY KEY,
    high_water bigint NOT NULL CHECK (high_water > 0)  -- the highest for a SELL, the lowest for a BUY
);

CREATE TABLE execution (
    venue text NOT NULL,
    execution_id text NOT NULL,
    trade_id uuid NOT NULL,  -- exists: execution_has_trade checks it, a statement at a time
    last_qty bigint NOT NULL CHECK (last_qty > 0),
    last_px bigint NOT NULL CHECK (last_px > 0),
    fee bigint NOT NULL CHECK (fee >= 0),
    gain bigint NOT NULL,  -- what a sale brought above the average cost of its shares
    suspense boolean NOT NULL,  -- booked to the broker's suspense account: not among the trade's figures
    corrects text,  -- the execution in whose place it stands: not among the trade's figures, which count that one
    transfer_id uuid NOT NULL UNIQUE,
    at timestamptz NOT NULL,
    PRIMARY KEY (venue, execution_id)  -- this is what makes a settlement happen exactly once
);
CREATE INDEX execution_trade ON execution (trade_id);

CREATE TABLE bust (  -- an execution that the exchange took back; its own row stays
    venue text NOT NULL,
    execution_id text NOT NULL,
    transfer_id uuid NOT NULL UNIQUE,
    at timestamptz NOT NULL,
    PRIMARY KEY (venue, execution_id),
    FOREIGN KEY (venue, execution_id) REFERENCES execution
);

CREATE TABLE event (
    customer_id bigint NOT NULL,
    seq bigint NOT NULL CHECK (seq > 0),  -- the customer's 1st, 2nd, 3rd ... event, in the order of commits: no gaps
    trade_id uuid NOT NULL,
    number int NOT NULL CHECK (number > 0),  -- the trade's 1st, 2nd, 3rd ... event
    step step NOT NULL,
    status trade_status NOT NULL,  -- this and the next ones: the trade as it was then
    reason text NOT NULL,
    filled_quantity bigint NOT NULL,
    filled_value bigint NOT NULL,
    acknowledged boolean NOT NULL,
    cancel_requested boolean NOT NULL,
    quantity bigint NOT NULL,
    execution_id text,
    at timestamptz NOT NULL,
    chain smallint,  -- this and the next one: the record of `audit` that vouches for it; null before there were any
    link bigint,
    PRIMARY KEY (customer_id, seq)  -- what a client that was away reads on from
);

-- What happened, in chains: each record's hash covers the hash before it. Chain 0 has the operators' requests and what came
-- of them. The others have the events of trades, a record for each commit, in the chain of its first event's customer,
-- so that two commits seldom wait for each other.
CREATE TABLE audit (
    chain smallint NOT NULL,
    number bigint NOT NULL,  -- 1, 2, 3 ... in its chain
    at timestamptz NOT NULL,
    actor text NOT NULL,  -- 'broker', or the id of an operator's key
    action text NOT NULL,  -- 'events'; of an operator: 'asked' and 'answered'; 'before': what the migration found
    content text NOT NULL,  -- of events: their digest (digest_of_events)
    hash bytea NOT NULL,
    PRIMARY KEY (chain, number)
);
CREATE TABLE audit_head (  -- the last record of each chain, so that the next one needs no search
    chain smallint PRIMARY KEY,
    number bigint NOT NULL,
    hash bytea NOT NULL
);
INSERT INTO audit_head SELECT chain, 0, sha256('') FROM generate_series(0, 16) AS chain;

-- Where a customer wants to be told of its events. The events themselves are the queue: `delivered` is how far it got.
CREATE TABLE webhook (
    webhook_id uuid PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customer,
    url text NOT NULL CHECK (length(url) BETWEEN 1 AND 2000),
    secret bytea NOT NULL CHECK (octet_length(secret) BETWEEN 24 AND 64),  -- we sign with it: a hash would not do
    delivered bigint NOT NULL CHECK (delivered >= 0),  -- the seq of the newest event that was taken
    failures int NOT NULL DEFAULT 0 CHECK (failures >= 0),  -- in a row
    failing_since timestamptz,
    last_error text,
    next_try_at timestamptz NOT NULL DEFAULT now(),  -- also a lease: a process at work on it has put it off
    disabled_at timestamptz,  -- it failed for too long: the customer has to enable it again
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX webhook_url ON webhook (customer_id, url);
CREATE INDEX webhook_due ON webhook (next_try_at) WHERE disabled_at IS NULL;

CREATE TABLE margin_day (  -- how far a margin account's equity was above its maintenance requirement, at the day's worst
    customer_id bigint NOT NULL REFERENCES customer,
    day date NOT NULL,
    lowest bigint NOT NULL,
    PRIMARY KEY (customer_id, day)
);

CREATE TABLE price_sample (  -- prices of what customers hold, now and then: what their portfolio's history is made of
    symbol ticker NOT NULL,
    at timestamptz NOT NULL,
    price bigint NOT NULL CHECK (price > 0),
    PRIMARY KEY (symbol, at)
);

CREATE TABLE bar (  -- what was traded in a minute or on a day (New York's), by what the feed told
    symbol ticker NOT NULL,
    timeframe text NOT NULL CHECK (timeframe IN ('1Min', '1Day')),
    starts_at timestamptz NOT NULL,
    open bigint NOT NULL CHECK (open > 0),
    high bigint NOT NULL,
    low bigint NOT NULL CHECK (low > 0),
    close bigint NOT NULL,
    volume bigint NOT NULL CHECK (volume > 0),  -- shares
    value bigint NOT NULL CHECK (value > 0),  -- what was paid for them: divided by the shares, the average price
    trades int NOT NULL CHECK (trades > 0),
    PRIMARY KEY (symbol, timeframe, starts_at),
    CONSTRAINT high_and_low_enclose CHECK (low <= least(open, close) AND high >= greatest(open, close))
);

CREATE TABLE watchlist (
    watchlist_id uuid PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customer,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    symbols text[] NOT NULL,  -- in the customer's order
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX watchlist_name ON watchlist (customer_id, name);

-- What a customer has set for its account under the Alpaca-compatible API, and nothing of ours depends on.
CREATE TABLE account_configuration (
    customer_id bigint PRIMARY KEY REFERENCES customer,
    content jsonb NOT NULL CHECK (jsonb_typeof(content) = 'object')
);

CREATE TABLE corporate_action (  -- what operators have had carried out; an event's content is that of its first request
    event_id text PRIMARY KEY CHECK (length(event_id) BETWEEN 1 AND 100),
    content text NOT NULL,
    price bigint NOT NULL CHECK (price >= 0),  -- of a new share, for fractions
    holders bigint[],  -- whom it concerns; NULL until no order in the symbol is open any more
    registered_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
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

-- What has to exist is asked for in a subquery for each row, never in a join: the plan of a join is made while the tables
-- are small, and would read a whole index for ever after.

-- The rules on a trade's row. As CHECKs, which PostgreSQL parses anew for every statement, they took half a millisecond of each; a
-- trigger's plan is kept. A rule that comes out as NULL is kept, as with a CHECK.
CREATE FUNCTION rules_of_trades() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    broken text;
BEGIN
    SELECT rule INTO broken FROM (SELECT CASE
        WHEN NOT (filled_quantity BETWEEN 0 AND quantity) THEN 'never_overfilled'
        WHEN NOT ((filled_quantity = 0) = (filled_value = 0) AND filled_value >= 0) THEN 'value_follows_quantity'
        WHEN NOT (hold >= 0) THEN 'hold_not_negative'
        WHEN NOT (quantity BETWEEN 1 AND 10000000 AND seq > 0 AND events > 0 AND reason <> '') THEN 'trade_is_complete'
        WHEN NOT (length(idempotency_key) BETWEEN 1 AND 200) THEN 'idempotency_key_fits'
        WHEN NOT (length(client_order_id) BETWEEN 1 AND 200) THEN 'client_order_id_fits'
        WHEN NOT (replaces_filled IS NULL OR replaces IS NOT NULL) THEN 'replaces_filled_is_of_another'
        WHEN NOT ((ended_at IS NOT NULL) = (status IN ('FILLED', 'REJECTED', 'CANCELLED', 'EXPIRED', 'REPLACED')))
            THEN 'ended_when_it_has'
        WHEN NOT CASE status
            WHEN 'PLACED' THEN hold = 0 AND filled_quantity = 0
            WHEN 'HELD' THEN filled_quantity = 0
            WHEN 'IN PROGRESS' THEN (hold > 0 OR replaces_filled IS NOT NULL) AND filled_quantity = 0
            WHEN 'PARTIALLY FILLED' THEN filled_quantity BETWEEN 1 AND quantity - 1
            WHEN 'FILLED' THEN hold = 0 AND filled_quantity = quantity
            WHEN 'REJECTED' THEN hold = 0 AND filled_quantity = 0
            ELSE hold = 0 AND filled_quantity < quantity END
            THEN 'status_fits_figures'
        -- One that is to replace another holds only what that one does not.
        WHEN NOT (side = 'BUY' OR status NOT IN ('IN PROGRESS', 'PARTIALLY FILLED') OR hold = quantity - filled_quantity
                  OR (replaces_filled IS NOT NULL AND hold < quantity - filled_quantity))
            THEN 'sell_holds_what_it_leaves'
        WHEN NOT (
            (limit_price IS NOT NULL) = (order_type IN ('limit', 'stop_limit'))
            AND (stop_price IS NOT NULL) = (order_type IN ('stop', 'stop_limit') OR order_type = 'trailing_stop' AND triggered)
            AND num_nonnulls(trail_amount, trail_bps) = CASE order_type WHEN 'trailing_stop' THEN 1 ELSE 0 END
            AND coalesce(limit_price, 1) > 0 AND coalesce(stop_price, 1) > 0
            AND coalesce(trail_amount, 1) > 0 AND coalesce(trail_bps, 1) BETWEEN 1 AND 9999)
            THEN 'prices_fit_the_type'
        WHEN NOT ((order_class = 'simple') = (group_id IS NULL) AND (group_id IS NULL) = (role IS NULL)
                  AND (order_class <> 'oco' OR role <> 'entry'))
            THEN 'a_group_has_roles'
        WHEN NOT (NOT extended_hours OR (order_type = 'limit' AND time_in_force IN ('day', 'gtc')))
            THEN 'only_limits_trade_outside_the_session'
        WHEN NOT (limit_price IS NULL OR CASE side
            WHEN 'BUY' THEN filled_value <= filled_quantity * limit_price
            ELSE filled_value >= filled_quantity * limit_price END)
            THEN 'filled_within_the_limit'
        END AS rule FROM written) AS checked
        WHERE rule IS NOT NULL LIMIT 1;
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION 'a trade breaks the rule "%"', broken USING ERRCODE = 'check_violation', CONSTRAINT = broken;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER rules_of_new_trades AFTER INSERT ON trade
    REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION rules_of_trades();
CREATE TRIGGER rules_of_changed_trades AFTER UPDATE ON trade
    REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION rules_of_trades();

CREATE FUNCTION apply_postings() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wanted bigint;
    applied bigint;
    costs_are_right boolean;
BEGIN
    IF EXISTS (SELECT FROM added GROUP BY transfer_id, asset HAVING sum(amount) <> 0) THEN
        RAISE EXCEPTION 'the postings of a transfer do not sum to zero'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'transfer_balances';
    END IF;
    IF EXISTS (SELECT FROM added WHERE (SELECT true FROM transfer WHERE transfer.transfer_id = added.transfer_id) IS NULL) THEN
        RAISE EXCEPTION 'a posting names a transfer that does not exist'
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'posting_has_transfer';
    END IF;
    WITH delta AS (
        SELECT owner_id, asset, sum(amount)::bigint AS amount, sum(cost)::bigint AS cost, sum(gain)::bigint AS gain
            FROM added GROUP BY owner_id, asset
    ), moved AS (
        UPDATE account SET balance = account.balance + delta.amount, cost = account.cost + delta.cost,
                gain = account.gain + delta.gain, updated_at = now() FROM delta
            WHERE account.owner_id = delta.owner_id AND account.asset = delta.asset
            -- Cost is of shares that are there, and never of cash. Nothing else writes it, so it is not a CHECK, which
            -- would be parsed for every change of an account.
            RETURNING account.owner_id < 0 OR (account.cost >= 0 AND (account.balance <> 0 OR account.cost = 0)
                AND (account.asset <> '$USD' OR (account.cost = 0 AND account.gain = 0))) AS cost_is_right
    )
    SELECT (SELECT count(*) FROM delta), count(*), bool_and(cost_is_right) FROM moved INTO wanted, applied, costs_are_right;
    IF NOT costs_are_right THEN
        RAISE EXCEPTION 'what shares cost is of shares that are there, and not below zero'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'cost_is_of_shares_that_are_there';
    END IF;
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
    IF EXISTS (SELECT FROM added WHERE status IN ('PARTIALLY FILLED', 'FILLED', 'EXPIRED')) THEN
        RAISE EXCEPTION 'a trade begins unfilled'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'trade_begins_unfilled';
    END IF;
    IF EXISTS (SELECT FROM added WHERE (SELECT true FROM customer WHERE customer.customer_id = added.customer_id) IS NULL) THEN
        RAISE EXCEPTION 'a trade belongs to a customer who does not exist'
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'trade_has_customer';
    END IF;
    WITH delta AS (
        SELECT customer_id, CASE side WHEN 'BUY' THEN '$USD' ELSE symbol END AS asset, sum(hold)::bigint AS hold
            FROM added WHERE hold > 0 GROUP BY 1, 2
    ), moved AS (
        UPDATE account SET held = account.held + delta.hold, updated_at = now() FROM delta
            WHERE account.owner_id = delta.customer_id AND account.asset = delta.asset RETURNING true
    )
    SELECT (SELECT count(*) FROM delta), (SELECT count(*) FROM moved) INTO wanted, applied;
    IF applied <> wanted THEN
        RAISE EXCEPTION 'a trade holds what its customer has no account for'
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'hold_has_account';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER hold_of_new_trades AFTER INSERT ON trade
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION hold_of_new_trades();

-- The two of a pair are found by hashing: there is no index to go by.
CREATE FUNCTION changes_of_trades() RETURNS trigger LANGUAGE plpgsql SET enable_hashjoin = on AS $$
BEGIN
    IF EXISTS (
        SELECT FROM was LEFT JOIN is_now USING (trade_id, customer_id, seq, symbol, side, created_at, venue, order_type,
            time_in_force, order_class, extended_hours)
        WHERE is_now.status IS NULL
        OR (was.limit_price, was.idempotency_key, was.client_order_id, was.replaces, was.group_id, was.role, was.trail_amount,
            was.trail_bps) IS DISTINCT FROM
           (is_now.limit_price, is_now.idempotency_key, is_now.client_order_id, is_now.replaces, is_now.group_id, is_now.role,
            is_now.trail_amount, is_now.trail_bps)
        -- What is held here is for fewer shares when the other exit of its group has sold some; a trailing stop has its
        -- price when that was reached.
        OR (was.quantity <> is_now.quantity AND (was.status <> 'HELD' OR is_now.quantity > was.quantity))
        OR (was.stop_price IS DISTINCT FROM is_now.stop_price AND (was.status <> 'HELD' OR was.stop_price IS NOT NULL))
        OR (was.triggered AND NOT is_now.triggered) OR (is_now.triggered AND NOT was.triggered AND was.status <> 'HELD')
        OR NOT EXISTS (SELECT FROM status_change WHERE before = was.status AND after = is_now.status)
        AND NOT (was.status = is_now.status AND was.filled_quantity = is_now.filled_quantity
                 AND was.filled_value = is_now.filled_value AND is_now.events > was.events
                 AND (was.status IN ('HELD', 'IN PROGRESS', 'PARTIALLY FILLED') OR (was.reason = is_now.reason
                     AND was.acknowledged = is_now.acknowledged AND was.cancel_requested = is_now.cancel_requested)))
    ) THEN
        RAISE EXCEPTION 'a trade cannot change in this way: it is finished, or status_change does not have the step'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'status_change_allowed';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER changes_of_trades AFTER UPDATE ON trade
    REFERENCING OLD TABLE AS was NEW TABLE AS is_now FOR EACH STATEMENT EXECUTE FUNCTION changes_of_trades();

CREATE FUNCTION hold_of_changed_trades() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wanted bigint;
    applied bigint;
BEGIN
    WITH delta AS (
        SELECT customer_id, asset, sum(hold)::bigint AS hold
            FROM (SELECT customer_id, CASE side WHEN 'BUY' THEN '$USD' ELSE symbol END AS asset, -hold AS hold FROM was
                  UNION ALL
                  SELECT customer_id, CASE side WHEN 'BUY' THEN '$USD' ELSE symbol END, hold FROM is_now) AS change
            GROUP BY 1, 2 HAVING sum(hold) <> 0
    ), moved AS (
        UPDATE account SET held = account.held + delta.hold, updated_at = now() FROM delta
            WHERE account.owner_id = delta.customer_id AND account.asset = delta.asset RETURNING true
    )
    SELECT (SELECT count(*) FROM delta), (SELECT count(*) FROM moved) INTO wanted, applied;
    IF applied <> wanted THEN
        RAISE EXCEPTION 'a trade holds what its customer has no account for'
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'hold_has_account';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER hold_of_changed_trades AFTER UPDATE ON trade
    REFERENCING OLD TABLE AS was NEW TABLE AS is_now FOR EACH STATEMENT EXECUTE FUNCTION hold_of_changed_trades();

CREATE FUNCTION execution_has_trade() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM added WHERE (SELECT true FROM trade WHERE trade.trade_id = added.trade_id) IS NULL) THEN
        RAISE EXCEPTION 'an execution names a trade that does not exist'
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'execution_has_trade';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER execution_has_trade AFTER INSERT ON execution
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION execution_has_trade();

CREATE FUNCTION credit_needs_a_margin_account() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.asset <> '$USD' OR NOT EXISTS (SELECT FROM customer WHERE customer_id = NEW.owner_id AND account_type = 'margin') THEN
        RAISE EXCEPTION 'only a margin account may owe, and only cash'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'credit_needs_a_margin_account';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER credit_needs_a_margin_account AFTER INSERT OR UPDATE OF floor, owner_id, asset ON account
    FOR EACH ROW WHEN (NEW.owner_id > 0 AND NEW.floor < 0) EXECUTE FUNCTION credit_needs_a_margin_account();

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
CREATE TRIGGER history_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON bust
    FOR EACH STATEMENT EXECUTE FUNCTION history_stays();
CREATE TRIGGER history_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON event
    FOR EACH STATEMENT EXECUTE FUNCTION history_stays();
CREATE TRIGGER history_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION history_stays();
CREATE TRIGGER history_stays BEFORE DELETE OR TRUNCATE ON audit_head
    FOR EACH STATEMENT EXECUTE FUNCTION history_stays();
CREATE TRIGGER history_stays BEFORE DELETE OR TRUNCATE ON trade
    FOR EACH STATEMENT EXECUTE FUNCTION history_stays();
CREATE TRIGGER history_stays BEFORE DELETE OR TRUNCATE ON customer
    FOR EACH STATEMENT EXECUTE FUNCTION history_stays();
CREATE TRIGGER history_stays BEFORE DELETE OR TRUNCATE ON account
    FOR EACH STATEMENT EXECUTE FUNCTION history_stays();

-- A key ends once and for all, and only ever sooner than it was to; what it opens, and whose it is, stays.
CREATE FUNCTION a_key_only_ends() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.key_id, NEW.secret_hash, NEW.scopes, NEW.customer_id) IS DISTINCT FROM
            (OLD.key_id, OLD.secret_hash, OLD.scopes, OLD.customer_id)
        OR coalesce(NEW.revoked_at, 'infinity') > coalesce(OLD.revoked_at, 'infinity')
        OR coalesce(NEW.expires_at, 'infinity') > coalesce(OLD.expires_at, 'infinity')
    THEN
        RAISE EXCEPTION 'a key only ever ends, and ends sooner'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'a_key_only_ends';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER a_key_only_ends BEFORE UPDATE ON api_key FOR EACH ROW EXECUTE FUNCTION a_key_only_ends();

---------------------------------------------------------------- what the broker calls

CREATE TYPE claim AS (customer_id bigint, version bigint);
CREATE TYPE account_key AS (owner_id bigint, asset text);
CREATE TYPE new_trade AS (trade_id uuid, customer_id bigint, seq bigint, symbol text, side side, quantity bigint,
    venue text, order_type order_type, time_in_force time_in_force, limit_price bigint, stop_price bigint,
    idempotency_key text, client_order_id text, replaces uuid, replaces_filled bigint, order_class order_class,
    group_id uuid, role role, trail_amount bigint, trail_bps int, extended_hours boolean, triggered boolean, status trade_status, reason text, hold bigint,
    max_price bigint, acknowledged boolean, cancel_requested boolean, events int);
CREATE TYPE trade_figures AS (trade_id uuid, quantity bigint, stop_price bigint, triggered boolean, status trade_status, reason text, hold bigint, max_price bigint,
    filled_quantity bigint, filled_value bigint, acknowledged boolean, cancel_requested boolean, events int);
CREATE TYPE new_transfer AS (transfer_id uuid, kind transfer_kind, reference text, customer_id bigint);
CREATE TYPE new_posting AS (transfer_id uuid, owner_id bigint, asset text, amount bigint, cost bigint, gain bigint);
CREATE TYPE new_execution AS (venue text, execution_id text, trade_id uuid, last_qty bigint, last_px bigint, fee bigint,
    gain bigint, suspense boolean, corrects text, transfer_id uuid);
CREATE TYPE new_bust AS (venue text, execution_id text, transfer_id uuid);
CREATE TYPE new_event AS (customer_id bigint, seq bigint, trade_id uuid, number int, step step, status trade_status,
    reason text, filled_quantity bigint, filled_value bigint, acknowledged boolean, cancel_requested boolean,
    quantity bigint, execution_id text);
CREATE TYPE new_margin_level AS (customer_id bigint, day date, level bigint);
CREATE TYPE new_control AS (scope text, reason text);

-- What a record's hash is taken of: the hash before it, and the record as a JSON array. (This and the next function are in
-- plpgsql because a function in SQL is made ready anew in every transaction, which took a twentieth of a commit.)
CREATE FUNCTION hash_of_record(before bytea, chain smallint, number bigint, at timestamptz, actor text, action text, content text)
    RETURNS bytea LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN sha256(before || convert_to(jsonb_build_array(
        chain, number, (extract(epoch FROM at) * 1000000)::bigint, actor, action, content)::text, 'UTF8'));
END $$;

-- Of the events of one commit, by customer and seq.
CREATE FUNCTION digest_of_events(events new_event[]) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN encode(sha256(convert_to(
        (SELECT array_agg(each ORDER BY each.customer_id, each.seq) FROM unnest(events) AS each)::text, 'UTF8')), 'hex');
END $$;

-- Add a record to a chain, and return its number. The chain's head stays locked to the end of the transaction.
CREATE FUNCTION add_to_audit(in_chain smallint, at timestamptz, actor text, action text, content text)
    RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    head audit_head;
BEGIN
    UPDATE audit_head SET number = audit_head.number + 1,
            hash = hash_of_record(audit_head.hash, in_chain, audit_head.number + 1, at, actor, action, content)
        WHERE chain = in_chain RETURNING * INTO STRICT head;
    INSERT INTO audit VALUES (in_chain, head.number, at, actor, action, content, head.hash);
    RETURN head.number;
END $$;

-- How long the oldest transaction has been open, in seconds, and how many transactions old what it still sees is: what is
-- held open keeps dead rows from being cleaned away. As the owner, since a role sees no more than its own sessions.
CREATE FUNCTION oldest_transaction(OUT seconds double precision, OUT age bigint) LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = broker, pg_temp AS
    $$ SELECT coalesce(extract(epoch FROM max(clock_timestamp() - xact_start)), 0), coalesce(max(age(backend_xmin)), 0)
       FROM pg_stat_activity
       WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid() $$;

-- What an operator asked for, before it is done, and what came of it. The time is the database's own.
CREATE FUNCTION record_operator(actor text, action text, content text)
    RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = broker, pg_temp AS $$
BEGIN
    IF actor = 'broker' OR action NOT IN ('asked', 'answered') THEN
        RAISE EXCEPTION 'this is no record of an operator: % by %', action, actor
            USING ERRCODE = 'check_violation', CONSTRAINT = 'record_is_an_operators';
    END IF;
    RETURN add_to_audit(0::smallint, clock_timestamp(), actor, action, content);
END $$;

-- When a trade that has this status by now has ended; null where it has not.
CREATE FUNCTION end_of(status trade_status, at timestamptz) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS
    $$ SELECT CASE WHEN status IN ('FILLED', 'REJECTED', 'CANCELLED', 'EXPIRED', 'REPLACED') THEN at END $$;

-- The order of the steps is part of the rule: releases first, then money moves, then orders that begin, of which some hold
-- less than they did, then new orders, so that never_overdrawn holds after every step when it holds at the end. (But for a
-- batch that also pays out what such an order holds less of: that is refused, and decided again one command at a time.) House rows come into being here with their floor.
CREATE FUNCTION commit_batch(decided_at timestamptz, claims claim[], opened account_key[], settled trade_figures[],
        transfers new_transfer[], postings new_posting[], executions new_execution[], busts new_bust[],
        placed new_trade[], started trade_figures[], logged new_event[], levels new_margin_level[],
        controls new_control[])
    RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = broker, pg_temp
    -- Every row is found by its key: plans are kept, and one that was made while a table was small would go on reading all
    -- of it once it is large.
    SET enable_hashjoin = off SET enable_mergejoin = off SET enable_material = off SET enable_bitmapscan = off AS $$
DECLARE
    unchanged boolean;
    changed bigint;
    in_chain smallint;
    in_link bigint;
BEGIN
    WITH claimed AS (
        UPDATE account SET version = version + 1
            WHERE owner_id = ANY (ARRAY(SELECT customer_id FROM unnest(claims))) AND asset = '$USD'
            RETURNING owner_id, version
    )
    SELECT (SELECT array_agg(version ORDER BY owner_id) FROM claimed)
           IS NOT DISTINCT FROM (SELECT array_agg(version + 1 ORDER BY customer_id) FROM unnest(claims)) INTO unchanged;
    IF NOT unchanged THEN
        RAISE EXCEPTION 'an account changed after it was read' USING ERRCODE = 'BR001';
    END IF;
    IF cardinality(opened) > 0 THEN
        INSERT INTO account (owner_id, asset, floor)
            SELECT owner_id, asset, CASE WHEN owner_id < 0 THEN -9000000000000000000 ELSE 0 END FROM unnest(opened)
            ON CONFLICT DO NOTHING;
    END IF;
    IF cardinality(settled) > 0 THEN
        UPDATE trade SET quantity = s.quantity, stop_price = s.stop_price, triggered = s.triggered, status = s.status, reason = s.reason, hold = s.hold, max_price = s.max_price,
                filled_quantity = s.filled_quantity, filled_value = s.filled_value, acknowledged = s.acknowledged,
                cancel_requested = s.cancel_requested, events = s.events, updated_at = decided_at,
                ended_at = coalesce(trade.ended_at, end_of(s.status, decided_at))
            FROM unnest(settled) AS s WHERE trade.trade_id = s.trade_id;
        GET DIAGNOSTICS changed = ROW_COUNT;
        IF changed <> cardinality(settled) THEN
            RAISE EXCEPTION 'a trade that is to change does not exist'
                USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'changed_trade_exists';
        END IF;
    END IF;
    IF cardinality(transfers) > 0 THEN
        INSERT INTO transfer SELECT *, decided_at FROM unnest(transfers);
        INSERT INTO posting SELECT * FROM unnest(postings);
    END IF;
    IF cardinality(executions) > 0 THEN
        INSERT INTO execution SELECT *, decided_at FROM unnest(executions);
    END IF;
    IF cardinality(busts) > 0 THEN
        INSERT INTO bust SELECT *, decided_at FROM unnest(busts);
    END IF;
    IF cardinality(started) > 0 THEN
        UPDATE trade SET quantity = s.quantity, stop_price = s.stop_price, triggered = s.triggered, status = s.status, reason = s.reason, hold = s.hold, max_price = s.max_price,
                filled_quantity = s.filled_quantity, filled_value = s.filled_value, acknowledged = s.acknowledged,
                cancel_requested = s.cancel_requested, events = s.events, updated_at = decided_at,
                ended_at = coalesce(trade.ended_at, end_of(s.status, decided_at))
            FROM unnest(started) AS s WHERE trade.trade_id = s.trade_id;
        GET DIAGNOSTICS changed = ROW_COUNT;
        IF changed <> cardinality(started) THEN
            RAISE EXCEPTION 'a trade that is to change does not exist'
                USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'changed_trade_exists';
        END IF;
    END IF;
    IF cardinality(placed) > 0 THEN
        INSERT INTO trade SELECT trade_id, customer_id, seq, symbol, side, quantity, status, reason, venue, order_type,
                time_in_force, limit_price, stop_price, max_price, hold, acknowledged, cancel_requested, 0, 0, events,
                idempotency_key, client_order_id, replaces, replaces_filled, order_class, group_id, role, trail_amount,
                trail_bps, extended_hours, triggered, decided_at, decided_at, end_of(status, decided_at)
            FROM unnest(placed);
    END IF;
    IF cardinality(levels) > 0 THEN
        INSERT INTO margin_day SELECT * FROM unnest(levels)
            ON CONFLICT (customer_id, day) DO UPDATE SET lowest = least(margin_day.lowest, excluded.lowest);
    END IF;
    IF cardinality(controls) > 0 THEN
        INSERT INTO control SELECT *, decided_at FROM unnest(controls) ON CONFLICT DO NOTHING;
    END IF;
    IF cardinality(logged) > 0 THEN  -- last of all: whoever has a chain's head never waits for anybody else
        in_chain := 1 + (logged[1]).customer_id % 16;
        in_link := add_to_audit(in_chain, decided_at, 'broker', 'events', digest_of_events(logged));
        INSERT INTO event SELECT *, decided_at, in_chain, in_link FROM unnest(logged);
    END IF;
END $$;

-- A customer with an open cash account, its first key, and its opening deposit where there is one. `credit` is the most
-- that a margin account may ever owe.
CREATE FUNCTION create_customer(name text, account_type text, key_id text, secret_hash bytea, cash bigint,
        transfer_id uuid, external_owner bigint, credit bigint, at timestamptz DEFAULT now())
    RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = broker, pg_temp
    SET enable_hashjoin = off SET enable_mergejoin = off SET enable_material = off SET enable_bitmapscan = off AS $$
#variable_conflict use_variable
DECLARE
    created bigint;
BEGIN
    INSERT INTO customer (name, account_type, created_at) VALUES (name, account_type, at) RETURNING customer_id INTO created;
    INSERT INTO api_key (key_id, customer_id, secret_hash) VALUES (key_id, created, secret_hash);
    INSERT INTO account (owner_id, asset, floor)
        VALUES (created, '$USD', CASE account_type WHEN 'margin' THEN -credit ELSE 0 END);
    IF cash > 0 THEN
        INSERT INTO account (owner_id, asset, floor) VALUES (external_owner, '$USD', -9000000000000000000)
            ON CONFLICT DO NOTHING;
        INSERT INTO transfer VALUES (transfer_id, 'cash', 'opening:' || created, created, at);
        INSERT INTO posting VALUES (transfer_id, created, '$USD', cash), (transfer_id, external_owner, '$USD', -cash);
    END IF;
    RETURN created;
END $$;

---------------------------------------------------------------- what every process has to hear of at once

CREATE FUNCTION tell_of_keys() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_notify('broker_keys', ''); RETURN NULL; END $$;
CREATE TRIGGER tell_of_keys AFTER UPDATE ON api_key FOR EACH STATEMENT EXECUTE FUNCTION tell_of_keys();
CREATE TRIGGER tell_of_keys AFTER UPDATE OF status ON customer FOR EACH STATEMENT EXECUTE FUNCTION tell_of_keys();

CREATE FUNCTION tell_of_controls() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_notify('broker_controls', ''); RETURN NULL; END $$;
CREATE TRIGGER tell_of_controls AFTER INSERT OR UPDATE OR DELETE ON control
    FOR EACH STATEMENT EXECUTE FUNCTION tell_of_controls();
CREATE TRIGGER tell_of_controls AFTER INSERT OR UPDATE OR DELETE ON risk_limit
    FOR EACH STATEMENT EXECUTE FUNCTION tell_of_controls();
CREATE TRIGGER tell_of_controls AFTER UPDATE OF status ON customer
    FOR EACH STATEMENT EXECUTE FUNCTION tell_of_controls();

---------------------------------------------------------------- what is read

-- A trade with all that the exchange has said was executed of it: what a decision on a report needs.
CREATE TYPE executed AS (execution_id text, last_qty bigint, last_px bigint, fee bigint, gain bigint, suspense boolean,
    corrects text, busted boolean);
CREATE VIEW trade_with_executions AS
    SELECT trade.*, (
        SELECT array_agg((execution.execution_id, execution.last_qty, execution.last_px, execution.fee, execution.gain,
                          execution.suspense, execution.corrects, bust.execution_id IS NOT NULL)::executed
                         ORDER BY execution.at, execution.execution_id)
        FROM execution LEFT JOIN bust USING (venue, execution_id)
        WHERE execution.trade_id = trade.trade_id
    ) AS executions
    FROM trade;

-- An order with what is beside its row: the best price that a trailing stop has seen, and the order in its place. That one
-- is found by an aggregate: with ORDER BY and LIMIT the planner would go by seq, through all of the customer's orders.
CREATE VIEW order_with_links AS
    SELECT trade.*,
           (SELECT high_water FROM trail WHERE trail.trade_id = trade.trade_id) AS high_water,
           CASE WHEN status = 'REPLACED' THEN (
               SELECT (array_agg(later.trade_id ORDER BY later.seq DESC))[1] FROM trade AS later
               WHERE later.replaces = trade.trade_id AND later.customer_id = trade.customer_id AND later.status <> 'REJECTED'
           ) END AS replaced_by
    FROM trade;

CREATE VIEW balances AS
    SELECT owner_id AS customer_id, balance AS amount, held, balance - held AS available, updated_at AS last_modified
    FROM account WHERE asset = '$USD' AND owner_id > 0;

CREATE VIEW positions AS
    SELECT owner_id AS customer_id, asset AS symbol, balance AS quantity, held, balance - held AS available, cost, gain,
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
GRANT EXECUTE ON FUNCTION commit_batch, create_customer, record_operator, oldest_transaction, tell_of_keys, tell_of_controls
    TO broker_runtime;
GRANT INSERT (key_id, customer_id, secret_hash, scopes, expires_at), UPDATE (revoked_at, expires_at, replaced_by) ON api_key
    TO broker_runtime;
GRANT UPDATE (status) ON customer TO broker_runtime;
GRANT INSERT (cause, venue, payload) ON inbox TO broker_runtime;
GRANT INSERT, DELETE ON control, risk_limit TO broker_runtime;
GRANT UPDATE (reason) ON control TO broker_runtime;
GRANT UPDATE (value) ON risk_limit TO broker_runtime;
GRANT INSERT, DELETE ON price_sample TO broker_runtime;
GRANT INSERT, UPDATE, DELETE ON bar, webhook, trail, watchlist, account_configuration TO broker_runtime;
GRANT INSERT (event_id, content, price), UPDATE (holders, finished_at) ON corporate_action TO broker_runtime;

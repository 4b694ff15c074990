-- From schema 4 to schema 5, in place, while brokers of version 4 work on it: everything is added, nothing that they use is
-- changed. They go on, and what they commit is in the chains of `audit` too.

SET LOCAL search_path = broker;
-- All locks first, in the order in which a commit of version 4 comes to the tables (event, by way of margin_day customer,
-- control), and each no stronger than it needs to be: so a commit that has some of them never waits for us behind another.
-- SHARE ROW EXCLUSIVE is what a trigger needs: whoever only reads, or inserts a row that refers to this one, goes on.
LOCK TABLE event IN ACCESS EXCLUSIVE MODE;
LOCK TABLE customer IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE api_key IN ACCESS EXCLUSIVE MODE;
LOCK TABLE control, risk_limit IN SHARE ROW EXCLUSIVE MODE;

ALTER TABLE api_key
    ALTER COLUMN customer_id DROP NOT NULL,
    ADD COLUMN scopes text[] NOT NULL DEFAULT '{read,trade}',
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN replaced_by text REFERENCES api_key,
    ADD CONSTRAINT scopes_are_known CHECK (cardinality(scopes) > 0 AND scopes <@ '{read,trade,admin}'),
    ADD CONSTRAINT admin_is_no_customer CHECK ((customer_id IS NULL) = ('admin' = ANY (scopes)));
CREATE INDEX api_key_ending ON api_key (expires_at) WHERE expires_at IS NOT NULL;
ALTER TABLE event ADD COLUMN chain smallint, ADD COLUMN link bigint;

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

CREATE TRIGGER history_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION history_stays();
CREATE TRIGGER history_stays BEFORE DELETE OR TRUNCATE ON audit_head
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

CREATE OR REPLACE FUNCTION commit_batch(decided_at timestamptz, claims claim[], opened account_key[], settled trade_figures[],
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

REVOKE ALL ON FUNCTION hash_of_record, digest_of_events, add_to_audit, record_operator, oldest_transaction, tell_of_keys,
    tell_of_controls, a_key_only_ends FROM PUBLIC;
GRANT SELECT ON audit, audit_head TO broker_runtime;
GRANT EXECUTE ON FUNCTION record_operator, oldest_transaction, tell_of_keys, tell_of_controls TO broker_runtime;
GRANT INSERT (scopes, expires_at), UPDATE (expires_at, replaced_by) ON api_key TO broker_runtime;
ALTER TABLE schema_version ADD COLUMN works_with int;
INSERT INTO schema_version (version, works_with) VALUES (5, 4);

-- The events of before are in no chain, nor is a commit of version 4 that waits for our locks: so many there are now. Where
-- there is no such record all events are in chains, from the first on.
SELECT add_to_audit(0::smallint, now(), 'broker', 'before', count(*)::text) FROM event;

-- Receiving, guarding and forwarding, for programs in any language.

-- Whether an event is new to `consumer`: call it in the transaction of the reaction, react when it says
-- true, commit. With the coordinates of a delivery (its onewrite… attributes) the receiver's mark decides;
-- a missing predecessor is an error (OW017), for the event must come again after it. Without `previous` (a
-- foreign sender, or a record delivered again outside its stream) the id decides. Ids are remembered in
-- either case; call onewrite.forget now and then.
CREATE FUNCTION onewrite.receive(
    consumer text, source text, id text, incarnation text DEFAULT '0000000000000000', partition integer DEFAULT 0,
    sequence bigint DEFAULT 0, previous bigint DEFAULT NULL
) RETURNS boolean LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    mark record;
    is_new boolean;
BEGIN
    IF id = format('gap-%s-%s-%s', incarnation, partition, sequence) THEN
        RAISE EXCEPTION USING ERRCODE = 'OW017',
            MESSAGE = format('source %s no longer has the events up to sequence %s of partition %s', source, sequence, partition),
            HINT = 'Compare both sides, then accept it: UPDATE onewrite.inbox SET sequence = …, last_id = … for this lane.';
    END IF;
    INSERT INTO onewrite.inbox AS i (consumer, source, incarnation, partition)
        VALUES (consumer, source, incarnation, partition) ON CONFLICT DO NOTHING;
    SELECT i.sequence, i.last_id, i.redriven INTO STRICT mark FROM onewrite.inbox i
        WHERE i.consumer = receive.consumer AND i.source = receive.source
            AND i.incarnation = receive.incarnation AND i.partition = receive.partition FOR UPDATE;
    IF previous IS NOT NULL AND sequence <= mark.sequence THEN
        IF sequence = mark.sequence AND id <> mark.last_id THEN
            RAISE EXCEPTION USING ERRCODE = 'OW013',
                MESSAGE = format('source %s has another event at sequence %s of partition %s than it delivered before', source, sequence, partition),
                HINT = 'The source went back in time: run `onewrite store fork`, then compare both sides.';
        END IF;
        RETURN false;
    END IF;
    IF previous > mark.sequence THEN
        RAISE EXCEPTION USING ERRCODE = 'OW017',
            MESSAGE = format('a predecessor is missing: this event follows sequence %s of partition %s, and %s is the last one received', previous, partition, mark.sequence),
            HINT = 'Do not acknowledge it: it must come again, after its predecessor.';
    END IF;
    -- Insert first. An event of the stream may have come outside of it before: its sender had given it up.
    INSERT INTO onewrite.inbox_id AS i (consumer, source, id) VALUES (consumer, source, id) ON CONFLICT DO NOTHING;
    is_new := FOUND;
    UPDATE onewrite.inbox i SET
            sequence = CASE WHEN previous IS NULL THEN i.sequence ELSE receive.sequence END,
            last_id = CASE WHEN previous IS NULL THEN i.last_id ELSE receive.id END,
            redriven = CASE WHEN previous IS NULL THEN greatest(i.redriven, receive.sequence) ELSE i.redriven END
        WHERE i.consumer = receive.consumer AND i.source = receive.source
            AND i.incarnation = receive.incarnation AND i.partition = receive.partition;
    RETURN is_new;
END $$;

-- Forgets ids of events received longer ago than `age`, which must exceed the time after which any sender
-- may still send an event again. Returns how many.
CREATE FUNCTION onewrite.forget(consumer text, age interval DEFAULT '8 days') RETURNS bigint LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    forgotten bigint;
BEGIN
    DELETE FROM onewrite.inbox_id i WHERE i.consumer = forget.consumer AND i.seen_at < clock_timestamp() - age;
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    RETURN forgotten;
END $$;

-- States why this transaction needs no event (a backfill, a repair).
CREATE FUNCTION onewrite.no_event(reason text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO onewrite.excuse (reason) VALUES (no_event.reason);
    PERFORM set_config('onewrite.excused', 'yes', true);
END $$;

-- The guard of one table: fires when the transaction commits, once.
CREATE FUNCTION onewrite.guard_checks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(current_setting('onewrite.placing', true), '') = ''
        AND coalesce(current_setting('onewrite.excused', true), '') = '' THEN
        RAISE EXCEPTION USING ERRCODE = 'OW022',
            MESSAGE = format('the transaction changed the guarded table "%s" and emitted no event', TG_TABLE_NAME),
            HINT = 'Emit an event in the same transaction (onewrite.emit), or state why none is needed: SELECT onewrite.no_event(''reason'').';
    END IF;
    RETURN NULL;
END $$;

-- Guards a table. Its owner may do it.
CREATE FUNCTION onewrite.guard_table(guarded regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        'CREATE CONSTRAINT TRIGGER onewrite_guard AFTER INSERT OR UPDATE OR DELETE ON %s
         DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
         WHEN (CASE WHEN coalesce(current_setting(''onewrite.changed'', true), '''') = ''yes'' THEN false
                    ELSE set_config(''onewrite.changed'', ''yes'', true) = ''yes'' END)
         EXECUTE FUNCTION onewrite.guard_checks()', guarded);
    INSERT INTO onewrite.guard (guarded) VALUES (guarded::text) ON CONFLICT DO NOTHING;
END $$;

CREATE FUNCTION onewrite.unguard_table(guarded regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('DROP TRIGGER IF EXISTS onewrite_guard ON %s', guarded);
    DELETE FROM onewrite.guard g WHERE g.guarded = unguard_table.guarded::text;
END $$;

-- What makes a table of the Debezium outbox event router's form an outbox of onewrite: each row inserted
-- is emitted, whether it stays in the table or is deleted at once.
CREATE FUNCTION onewrite.forwards() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    columns jsonb := to_jsonb(NEW) - 'payload';
    bytes bytea;
    written text;
    kind text := 'application/json';
BEGIN
    IF pg_typeof(NEW.payload) = 'bytea'::regtype THEN
        kind := 'application/octet-stream';
        bytes := NEW.payload;
    ELSE
        written := NEW.payload;
    END IF;
    INSERT INTO onewrite.outbox (id, aggregatetype, aggregateid, type, payload, payload_bytes, traceparent, content_type)
    VALUES (
        columns->>'id', columns->>'aggregatetype', columns->>'aggregateid', columns->>'type', written, bytes,
        coalesce(columns->>'traceparent', substring(columns->>'tracingspancontext' FROM 'traceparent=(\S+)')),
        kind
    );
    RETURN NULL;
END $$;

CREATE FUNCTION onewrite.forward_table(outbox regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER onewrite_forward AFTER INSERT ON %s FOR EACH ROW EXECUTE FUNCTION onewrite.forwards()', outbox);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER onewrite_forward', outbox);
END $$;

-- How an event gets its place. Three settings live as long as a transaction, and go back with its
-- savepoints: onewrite.placing (',3,17': partitions still to be locked; '*': locked; not empty: an event was
-- emitted), onewrite.changed (a guarded table was), onewrite.excused (and needs no event).

-- FNV-1a (32 bits) of the key's UTF-8 bytes, folded to 16 bits by exclusive or, modulo the number of
-- partitions: the same as onewrite computes.
CREATE FUNCTION onewrite.partition_of(key text, partitions integer) RETURNS integer
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    bytes bytea := convert_to(key, 'UTF8');
    hash bigint := 2166136261;
BEGIN
    FOR i IN 0 .. length(bytes) - 1 LOOP
        hash := ((hash # get_byte(bytes, i)) * 16777619) & 4294967295;
    END LOOP;
    RETURN ((hash >> 16) # (hash & 65535)) % partitions;
END $$;

-- Where this database is: its timeline (another one after a failover or a restore to a point in time) and
-- the file of its counter (another one in a copy or a restored dump).
CREATE FUNCTION onewrite.place() RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8)
        || ' ' || pg_catalog.pg_relation_filepath('onewrite.sequence'::pg_catalog.regclass)
$$;

-- 64 random bits in hexadecimal.
CREATE FUNCTION onewrite.new_incarnation() RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT pg_catalog.encode(pg_catalog.substring(pg_catalog.uuid_send(pg_catalog.gen_random_uuid()), 9), 'hex')
$$;

-- Begins a new life with the next number: what was drawn before may be drawn again by the original, or
-- may have been delivered from a tail that this database never got.
CREATE FUNCTION onewrite.begin_life(reason text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    here text;
    first bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(1869505911, -1);
    here := onewrite.place();
    IF reason = 'moved' AND EXISTS (SELECT FROM onewrite.source WHERE place = here) THEN
        RETURN NULL; -- another transaction has just done it
    END IF;
    UPDATE onewrite.source SET place = here;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'OW003', MESSAGE = 'the schema onewrite holds no source',
            HINT = 'Create it with `onewrite store init --store URL`.';
    END IF;
    first := nextval('onewrite.sequence');
    INSERT INTO onewrite.incarnation (first_sequence, incarnation, reason)
        VALUES (first, onewrite.new_incarnation(), begin_life.reason)
        ON CONFLICT (first_sequence) DO UPDATE SET incarnation = excluded.incarnation, reason = excluded.reason;
    RETURN first;
END $$;

-- What every row of the outbox goes through when it is inserted. (Whatever runs for each event is written
-- for speed: each expression and each statement costs a microsecond or more.)
CREATE FUNCTION onewrite.outbox_enters() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    source_partitions integer;
    bytes_max integer;
BEGIN
    SELECT partitions, event_bytes_max INTO STRICT source_partitions, bytes_max FROM onewrite.source;
    IF NEW.key IS NULL THEN
        NEW.key := NEW.aggregateid;
    END IF;
    -- Always computed: a wrong one would break the key's order.
    NEW.partition := onewrite.partition_of(NEW.key, source_partitions);
    IF coalesce(octet_length(NEW.payload_bytes), octet_length(NEW.payload), 0) > bytes_max THEN
        RAISE EXCEPTION USING ERRCODE = 'OW005', MESSAGE = format('the event takes more than %s bytes', bytes_max),
            HINT = 'Store the large part elsewhere and emit a reference, or raise onewrite.source.event_bytes_max.';
    END IF;
    IF length(set_config('onewrite.placing', coalesce(current_setting('onewrite.placing', true), '') || ',' || NEW.partition, true))
        > 32 * source_partitions + 64 THEN
        PERFORM onewrite.shorten_pending();
    END IF;
    RETURN NEW;
END $$;

-- Names each partition once in the list of those to be locked.
CREATE FUNCTION onewrite.shorten_pending() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    pending text := current_setting('onewrite.placing');
BEGIN
    PERFORM set_config('onewrite.placing', CASE WHEN pending LIKE '*%' THEN '*,' ELSE ',' END || string_agg(DISTINCT p, ','), true)
        FROM regexp_split_to_table(ltrim(pending, '*,'), ',') p;
END $$;

-- What happens to it when its transaction commits: it moves to the log. The first row takes the locks of
-- all, in order, so that two transactions never wait for each other. (NEW is the row as inserted, even if
-- it was deleted since.)
-- The table looks empty to the planner, and under an old snapshot it is not: it must follow the index.
CREATE FUNCTION onewrite.outbox_leaves() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
DECLARE
    asleep boolean;
BEGIN
    IF current_setting('onewrite.placing', true) LIKE ANY ('{"%,%,%","*,%"}') THEN
        PERFORM onewrite.lock_pending();
    END IF;
    IF NOT pg_try_advisory_xact_lock(1869505911, NEW.partition) THEN
        PERFORM pg_advisory_xact_lock(1869505911, NEW.partition);
    END IF;
    LOOP
        INSERT INTO onewrite.log
            SELECT s.segment, nextval('onewrite.sequence'), NEW.partition, clock_timestamp(), NEW.time, NEW.id, NEW.type,
                NEW.aggregatetype, NEW.aggregateid, NEW.key, NEW.content_type, NEW.schema_version, NEW.source,
                NEW.data_schema, NEW.correlation_id, NEW.causation_id, NEW.user_id, NEW.dedup_key, NEW.traceparent,
                NEW.headers, coalesce(NEW.payload_bytes, convert_to(NEW.payload, 'UTF8'))
            FROM onewrite.source s WHERE s.place = onewrite.place()
            RETURNING (SELECT last_value > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint FROM onewrite.asleep) INTO asleep;
        EXIT WHEN FOUND;
        PERFORM onewrite.begin_life('moved');
    END LOOP;
    DELETE FROM onewrite.outbox WHERE n = NEW.n;
    IF asleep OR current_setting('synchronous_commit') = 'off' THEN
        PERFORM onewrite.announce();
    END IF;
    RETURN NULL;
END $$;

-- Locks the partitions of everything this transaction inserted, in order.
CREATE FUNCTION onewrite.lock_pending() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    wanted integer;
BEGIN
    FOR wanted IN
        SELECT DISTINCT p::integer FROM regexp_split_to_table(ltrim(current_setting('onewrite.placing'), '*,'), ',') p ORDER BY 1
    LOOP
        PERFORM pg_advisory_xact_lock(1869505911, wanted);
    END LOOP;
    PERFORM set_config('onewrite.placing', '*', true);
END $$;

-- Wakes relays that sleep with this commit, and makes it durable: what a relay delivers must not be undone
-- by a crash.
CREATE FUNCTION onewrite.announce() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    IF (SELECT last_value FROM onewrite.asleep) > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AND coalesce(current_setting('onewrite.notify', true), '') <> 'off' THEN
        PERFORM pg_notify('onewrite', '');
    END IF;
END $$;

CREATE TRIGGER onewrite_enters BEFORE INSERT ON onewrite.outbox
    FOR EACH ROW EXECUTE FUNCTION onewrite.outbox_enters();
CREATE CONSTRAINT TRIGGER onewrite_leaves AFTER INSERT ON onewrite.outbox
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION onewrite.outbox_leaves();
-- Whatever session_replication_role says: an event that stays behind would be lost.
ALTER TABLE onewrite.outbox ENABLE ALWAYS TRIGGER onewrite_enters;
ALTER TABLE onewrite.outbox ENABLE ALWAYS TRIGGER onewrite_leaves;

-- Appends events at once: their places are known, and their partitions are locked until the transaction
-- ends. For short transactions, and last in them. Returns their sequences.
CREATE FUNCTION onewrite.append(
    times timestamptz[], ids text[], types text[], aggregatetypes text[], aggregateids text[],
    keys text[], content_types text[], schema_versions bigint[], sources text[], data_schemas text[],
    correlation_ids text[], causation_ids text[], user_ids text[], dedup_keys text[], traceparents text[],
    headers text[], payloads bytea[]
) RETURNS bigint[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    terms record;
    drawn bigint[];
    now timestamptz;
    partitions integer[];
BEGIN
    SELECT s.partitions, s.event_bytes_max INTO STRICT terms FROM onewrite.source s;
    IF EXISTS (SELECT FROM unnest(payloads) p WHERE octet_length(p) > terms.event_bytes_max) THEN
        RAISE EXCEPTION USING ERRCODE = 'OW005', MESSAGE = format('the event takes more than %s bytes', terms.event_bytes_max),
            HINT = 'Store the large part elsewhere and emit a reference, or raise onewrite.source.event_bytes_max.';
    END IF;
    IF '' = ANY (ids || types || aggregatetypes || keys) OR array_position(ids || types || aggregatetypes || aggregateids || keys, NULL) IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'OW006',
            MESSAGE = 'an event needs an id, a type, an aggregate type, and a key or aggregate id, none of them empty';
    END IF;
    SELECT array_agg(onewrite.partition_of(k, terms.partitions) ORDER BY n) INTO partitions FROM unnest(keys) WITH ORDINALITY AS u (k, n);
    PERFORM pg_advisory_xact_lock(1869505911, p) FROM (SELECT DISTINCT p FROM unnest(partitions) p ORDER BY p) wanted;
    IF NOT EXISTS (SELECT FROM onewrite.source s WHERE s.place = onewrite.place()) THEN
        PERFORM onewrite.begin_life('moved');
    END IF;
    now := clock_timestamp();
    WITH placed AS (
        INSERT INTO onewrite.log
        SELECT (SELECT segment FROM onewrite.source), nextval('onewrite.sequence'), e.partition, now, coalesce(e.time, now), e.id, e.type,
            e.aggregatetype, e.aggregateid, e.key, e.content_type, e.schema_version, e.source, e.data_schema,
            e.correlation_id, e.causation_id, e.user_id, e.dedup_key, e.traceparent, e.headers, e.payload
        FROM unnest(partitions, times, ids, types, aggregatetypes, aggregateids, keys, content_types, schema_versions,
            sources, data_schemas, correlation_ids, causation_ids, user_ids, dedup_keys, traceparents, headers, payloads)
            WITH ORDINALITY AS e (partition, time, id, type, aggregatetype, aggregateid, key, content_type,
                schema_version, source, data_schema, correlation_id, causation_id, user_id, dedup_key, traceparent,
                headers, payload, n)
        ORDER BY e.n
        RETURNING sequence
    )
    SELECT array_agg(sequence) INTO drawn FROM placed;
    PERFORM set_config('onewrite.placing', '*' || replace(coalesce(current_setting('onewrite.placing', true), ''), '*', ''), true);
    PERFORM onewrite.announce();
    RETURN drawn;
END $$;

-- Emits an event, from any language. Its key (the aggregate's id unless given) decides what it stays in
-- order with. Returns its id. When it is placed is up to onewrite.source.placement: with the commit, or at
-- once.
CREATE FUNCTION onewrite.emit(
    aggregatetype text, aggregateid text, type text, payload text DEFAULT NULL, key text DEFAULT NULL,
    id text DEFAULT NULL, correlation_id text DEFAULT NULL, causation_id text DEFAULT NULL,
    headers text DEFAULT NULL, content_type text DEFAULT 'application/json', schema_version bigint DEFAULT 1,
    traceparent text DEFAULT NULL, user_id text DEFAULT NULL, dedup_key text DEFAULT NULL,
    payload_bytes bytea DEFAULT NULL
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    given text := coalesce(emit.id, gen_random_uuid()::text);
BEGIN
    IF (SELECT s.placement FROM onewrite.source s) = 'emit' THEN
        PERFORM onewrite.append(
            ARRAY[NULL::timestamptz], ARRAY[given], ARRAY[emit.type], ARRAY[emit.aggregatetype], ARRAY[emit.aggregateid],
            ARRAY[coalesce(emit.key, emit.aggregateid)], ARRAY[emit.content_type], ARRAY[emit.schema_version],
            ARRAY[NULL::text], ARRAY[NULL::text], ARRAY[emit.correlation_id], ARRAY[emit.causation_id], ARRAY[emit.user_id],
            ARRAY[emit.dedup_key], ARRAY[emit.traceparent], ARRAY[emit.headers],
            ARRAY[coalesce(emit.payload_bytes, convert_to(emit.payload, 'UTF8'))]
        );
    ELSE
        INSERT INTO onewrite.outbox (id, aggregatetype, aggregateid, type, payload, payload_bytes, key, content_type,
            schema_version, correlation_id, causation_id, user_id, dedup_key, traceparent, headers)
        VALUES (given, emit.aggregatetype, emit.aggregateid, emit.type, emit.payload, emit.payload_bytes, emit.key,
            emit.content_type, emit.schema_version, emit.correlation_id, emit.causation_id, emit.user_id,
            emit.dedup_key, emit.traceparent, emit.headers);
    END IF;
    RETURN given;
END $$;

-- How far everything is decided: numbers up to `head` in partitions that are not `busy` are visible to the
-- next statement, or never will be. The number is read before the locks: who drew it held one by then.
CREATE FUNCTION onewrite.horizon(OUT head bigint, OUT busy integer[]) LANGUAGE plpgsql AS $$
BEGIN
    SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END INTO head FROM onewrite.sequence s;
    SELECT array_agg(DISTINCT l.objid::bigint::integer) INTO busy FROM pg_locks l
        WHERE l.locktype = 'advisory' AND l.classid = 1869505911 AND l.objsubid = 2 AND l.granted
            AND l.objid < 65536 AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
END $$;

-- Sets a relay's sign that it sleeps for so long, and then looks: what was placed by then may have been
-- placed without seeing the sign. Of several sleepers the one that sleeps longest has its sign there.
CREATE FUNCTION onewrite.sleeps(within interval, OUT sign bigint, OUT head bigint, OUT busy integer[]) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true); -- nothing here need outlive a crash
    sign := (extract(epoch FROM clock_timestamp() + within) * 1000000)::bigint;
    PERFORM setval('onewrite.asleep', sign) FROM onewrite.asleep WHERE last_value < sign;
    SELECT h.head, h.busy INTO head, busy FROM onewrite.horizon() h;
END $$;

-- Looks again after a sleep. Who was woken takes the sign down, unless somebody has gone to sleep since;
-- who was not leaves it to the others, and to its end.
CREATE FUNCTION onewrite.wakes(sign bigint, woken boolean, OUT head bigint, OUT busy integer[]) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    IF woken THEN
        PERFORM setval('onewrite.asleep', 0) FROM onewrite.asleep a WHERE a.last_value <= wakes.sign AND a.last_value > 0;
    END IF;
    SELECT h.head, h.busy INTO head, busy FROM onewrite.horizon() h;
END $$;

-- Renews a member's leases and takes its fair share of free and expired ones, in one call: a process that
-- stands still must not hold up the others' claims. The share is that of onewrite-core's `lease::share`.
CREATE FUNCTION onewrite.claim(
    wanted text, leases integer, claimant text, ttl interval, takes boolean,
    OUT partitions integer[], OUT epochs bigint[], OUT give_back integer
) LANGUAGE plpgsql AS $$
DECLARE
    members integer;
    held integer;
    extras integer;
    fair integer;
    taken integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(1869505912, hashtext(wanted)); -- claims of one scope follow one another
    INSERT INTO onewrite.member (scope, owner, seen_until) VALUES (wanted, claimant, clock_timestamp() + ttl)
        ON CONFLICT (scope, owner) DO UPDATE SET seen_until = excluded.seen_until;
    DELETE FROM onewrite.member WHERE scope = wanted AND owner <> claimant AND seen_until < clock_timestamp();
    IF (SELECT count(*) FROM onewrite.lease WHERE scope = wanted) < leases THEN
        INSERT INTO onewrite.lease (scope, partition) SELECT wanted, p FROM generate_series(0, leases - 1) p
            ON CONFLICT DO NOTHING;
    END IF;
    UPDATE onewrite.lease SET expires_at = clock_timestamp() + ttl WHERE scope = wanted AND owner = claimant;
    GET DIAGNOSTICS held = ROW_COUNT;
    SELECT count(*) INTO members FROM onewrite.member WHERE scope = wanted;
    SELECT count(*) INTO extras FROM (
        SELECT 1 FROM onewrite.lease WHERE scope = wanted AND owner <> claimant
        GROUP BY owner HAVING count(*) > leases / members) more;
    fair := leases / members + (extras < leases % members)::integer;
    IF takes AND fair > held THEN
        UPDATE onewrite.lease l SET owner = claimant, expires_at = clock_timestamp() + ttl,
                -- Beyond what any clock has given: an epoch that a failover lost must not come again.
                epoch = greatest(l.epoch + 1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint),
                takeovers = l.takeovers + (l.owner IS NOT NULL)::integer
            FROM (SELECT f.partition FROM onewrite.lease f
                  WHERE f.scope = wanted AND (f.owner IS NULL OR (f.owner <> claimant AND f.expires_at <= clock_timestamp()))
                  ORDER BY f.partition LIMIT fair - held FOR UPDATE SKIP LOCKED) free
            WHERE l.scope = wanted AND l.partition = free.partition;
        GET DIAGNOSTICS taken = ROW_COUNT;
    END IF;
    SELECT array_agg(l.partition ORDER BY l.partition), array_agg(l.epoch ORDER BY l.partition)
        INTO partitions, epochs FROM onewrite.lease l WHERE l.scope = wanted AND l.owner = claimant;
    give_back := greatest(held - fair, 0);
    IF taken = 0 THEN
        -- A renewal that a crash of the server undoes only ends a lease early. An epoch must not be undone:
        -- the next owner would get the same one.
        PERFORM set_config('synchronous_commit', 'off', true);
    ELSIF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
END $$;

-- Writes the live rows of a small table anew, once dead ones take more than `bytes`: somebody holds an old
-- snapshot, and looking for a row would pass all of its versions. It never waits for long. Says whether it did.
-- (That snapshot, should it look, sees the table empty: a dump that was about to lock it lacks these rows. A
-- sink without cursors begins again, and a lease without a row gets a higher epoch; receivers' marks must not
-- be lacking, and are never written anew.)
CREATE FUNCTION onewrite.rewrite(name text, bytes bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    kept jsonb;
    size bigint := pg_total_relation_size(('onewrite.' || quote_ident(name))::regclass);
BEGIN
    IF name NOT IN ('cursor', 'lease') OR size <= bytes THEN
        RETURN false;
    END IF;
    BEGIN
        EXECUTE format('LOCK TABLE onewrite.%I IN ACCESS EXCLUSIVE MODE', name);
    EXCEPTION WHEN lock_not_available THEN
        RETURN false;
    END;
    EXECUTE format('SELECT coalesce(jsonb_agg(to_jsonb(t)), ''[]'') FROM onewrite.%I t', name) INTO kept;
    -- As large for good reason?
    IF size < jsonb_array_length(kept) * 2000::bigint THEN
        RETURN false;
    END IF;
    EXECUTE format('TRUNCATE onewrite.%I', name);
    EXECUTE format('INSERT INTO onewrite.%1$I SELECT * FROM jsonb_populate_recordset(NULL::onewrite.%1$I, $1)', name) USING kept;
    RETURN true;
END $$;

-- Roles with the least that each needs. They belong to the cluster, so they are made once; who may not make
-- roles goes without, and grants by hand.
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['onewrite_emit', 'onewrite_receive', 'onewrite_relay', 'onewrite_operator'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        END IF;
    END LOOP;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE WARNING 'the roles onewrite_emit, onewrite_receive, onewrite_relay and onewrite_operator are not there, and this user may not create them';
        RETURN;
    WHEN duplicate_object OR unique_violation THEN NULL; -- another database of this cluster, just now
END $$;

-- Functions that place events act for their owner; nobody but these roles may call them.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA onewrite FROM PUBLIC;
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'onewrite_operator') THEN
        RETURN;
    END IF;
    GRANT USAGE ON SCHEMA onewrite TO onewrite_emit, onewrite_receive, onewrite_relay, onewrite_operator;
    GRANT SELECT ON onewrite.source TO onewrite_emit, onewrite_receive;
    GRANT SELECT ON SEQUENCE onewrite.asleep TO onewrite_emit, onewrite_receive;
    GRANT INSERT ON onewrite.outbox, onewrite.excuse TO onewrite_emit, onewrite_receive;
    GRANT EXECUTE ON FUNCTION onewrite.partition_of, onewrite.emit, onewrite.append, onewrite.no_event,
        onewrite.shorten_pending, onewrite.place
        TO onewrite_emit, onewrite_receive, onewrite_relay, onewrite_operator;
    -- A receiver keeps marks, ids and parked records, and leases a broker's lanes.
    GRANT SELECT, INSERT, UPDATE, DELETE ON onewrite.inbox, onewrite.inbox_id, onewrite.parked, onewrite.parked_key,
        onewrite.member TO onewrite_receive;
    GRANT SELECT, INSERT, UPDATE ON onewrite.lease TO onewrite_receive;
    GRANT SELECT ON onewrite.incarnation, onewrite.guard, onewrite.excuse TO onewrite_receive;
    GRANT SELECT ON SEQUENCE onewrite.sequence TO onewrite_receive;
    GRANT EXECUTE ON FUNCTION onewrite.receive, onewrite.forget TO onewrite_receive;
    -- A relay reads the log and keeps cursors, leases and parked records; it empties segments.
    GRANT SELECT ON ALL TABLES IN SCHEMA onewrite TO onewrite_relay;
    GRANT SELECT ON SEQUENCE onewrite.sequence TO onewrite_relay;
    GRANT SELECT, UPDATE ON SEQUENCE onewrite.asleep TO onewrite_relay;
    GRANT INSERT, UPDATE ON onewrite.lease TO onewrite_relay;
    GRANT INSERT, UPDATE, DELETE ON onewrite.cursor, onewrite.member, onewrite.sink, onewrite.parked,
        onewrite.parked_key, onewrite.history, onewrite.trimmed, onewrite.sweep TO onewrite_relay;
    GRANT UPDATE (segment, segment_since, segment_first) ON onewrite.source TO onewrite_relay;
    GRANT TRUNCATE ON onewrite.outbox TO onewrite_relay;
    GRANT TRUNCATE, DELETE ON onewrite.log_0, onewrite.log_1, onewrite.log_2, onewrite.log_3, onewrite.log_4, onewrite.log_5,
        onewrite.log_6, onewrite.log_7 TO onewrite_relay;
    GRANT EXECUTE ON FUNCTION onewrite.horizon, onewrite.sleeps, onewrite.wakes, onewrite.claim TO onewrite_relay, onewrite_receive;
    GRANT EXECUTE ON FUNCTION onewrite.rewrite TO onewrite_relay;
    -- An operator works on parked keys, gaps, sinks and guards.
    BEGIN
        GRANT onewrite_emit, onewrite_receive, onewrite_relay TO onewrite_operator;
    EXCEPTION
        WHEN insufficient_privilege THEN NULL; -- whoever made the roles in this cluster has done it
    END;
    -- What begins another life of the source is for the schema's owner.
    GRANT INSERT, DELETE ON onewrite.guard TO onewrite_operator;
    GRANT EXECUTE ON FUNCTION onewrite.guard_table, onewrite.unguard_table, onewrite.guard_checks, onewrite.forward_table,
        onewrite.forwards TO onewrite_operator;
END $$;

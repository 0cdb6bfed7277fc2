-- Schema version 1; any SQLite since 3.37 can write to it. Times are microseconds since 1970-01-01 UTC. Every table is documented here,
-- because programs in other languages write to some of them: onewrite_outbox and onewrite_no_event.

-- Names and values: source, partitions, event_bytes_max, file_identity, schema_version,
-- min_compatible.
CREATE TABLE onewrite_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- The lives of this source: records from first_sequence on belong to the row's incarnation.
CREATE TABLE onewrite_incarnation (
    first_sequence INTEGER PRIMARY KEY,
    incarnation    TEXT NOT NULL,
    since          INTEGER NOT NULL,
    reason         TEXT NOT NULL
);

-- The log. A plain INSERT of aggregatetype, aggregateid, type and payload is enough; the rest has
-- defaults. AUTOINCREMENT: a number is never used twice, even after every row was deleted. STRICT and
-- the checks refuse at once what could not be delivered later. `time` is the event's own and may be
-- any; retention and lag go by placed_at.
CREATE TABLE onewrite_outbox (
    sequence       INTEGER PRIMARY KEY AUTOINCREMENT,
    partition      INTEGER CHECK (partition BETWEEN 0 AND 65534), -- of the key's hash; computed when NULL
    placed_at      INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)),
    time           INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)),
    id             TEXT NOT NULL DEFAULT (printf('%08x-%04x-7%03x-%04x-%012x',
                       CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) >> 16,
                       CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) & 65535,
                       random() & 4095, 32768 | (random() & 16383), random() & 281474976710655)) CHECK (id <> ''),
    type           TEXT NOT NULL CHECK (type <> ''),
    aggregatetype  TEXT NOT NULL CHECK (aggregatetype <> ''),
    aggregateid    TEXT NOT NULL,
    key            TEXT CHECK (key <> ''),                 -- what stays in order together; aggregateid when NULL
    content_type   TEXT NOT NULL DEFAULT 'application/json',
    schema_version INTEGER NOT NULL DEFAULT 1 CHECK (schema_version BETWEEN 0 AND 4294967295),
    source         TEXT,                 -- CloudEvents source when it is not this store's
    data_schema    TEXT,
    correlation_id TEXT,
    causation_id   TEXT,
    user_id        TEXT,
    dedup_key      TEXT,
    traceparent    TEXT,
    headers        TEXT,                 -- JSON: [["name","value"], …]
    payload        ANY,                  -- last, so that scans that do not need it do not read it
    CHECK (coalesce(key, aggregateid) <> '')
) STRICT;

-- FNV-1a (32 bits) of the key's UTF-8 bytes, folded to 16 bits by exclusive or (x^y = (x|y)-(x&y)),
-- modulo the number of partitions: the same as onewrite computes, for rows that arrive without it.
CREATE TRIGGER onewrite_outbox_place AFTER INSERT ON onewrite_outbox
WHEN NEW.partition IS NULL OR NEW.key IS NULL
    OR NEW.partition >= (SELECT CAST(value AS INTEGER) FROM onewrite_meta WHERE name = 'partitions')
BEGIN
    UPDATE onewrite_outbox SET
        key = coalesce(NEW.key, NEW.aggregateid),
        partition = (
            WITH RECURSIVE
            input(text) AS (SELECT hex(CAST(coalesce(NEW.key, NEW.aggregateid) AS BLOB))),
            fnv(at, hash) AS (
                SELECT 1, 2166136261
                UNION ALL
                SELECT at + 2, (((hash | ((instr('0123456789ABCDEF', substr(text, at, 1)) - 1) * 16
                        + instr('0123456789ABCDEF', substr(text, at + 1, 1)) - 1)) - (hash & ((instr('0123456789ABCDEF', substr(text, at, 1)) - 1) * 16
                        + instr('0123456789ABCDEF', substr(text, at + 1, 1)) - 1)))
                    * 16777619) & 4294967295
                FROM fnv, input WHERE at < length(text)
            )
            SELECT (((hash >> 16) | (hash & 65535)) - ((hash >> 16) & (hash & 65535)))
                % (SELECT CAST(value AS INTEGER) FROM onewrite_meta WHERE name = 'partitions')
            FROM fnv ORDER BY at DESC LIMIT 1
        )
    WHERE sequence = NEW.sequence;
END;

-- The highest sequence deleted from each partition: a receiver that stands before it has lost records.
CREATE TABLE onewrite_trimmed (partition INTEGER PRIMARY KEY, sequence INTEGER NOT NULL);

-- What remains of records that were delivered and trimmed: their story, not their data.
CREATE TABLE onewrite_history (
    sequence       INTEGER PRIMARY KEY,
    partition      INTEGER NOT NULL,
    placed_at      INTEGER NOT NULL,
    time           INTEGER NOT NULL,
    id             TEXT NOT NULL,
    type           TEXT NOT NULL,
    key            TEXT NOT NULL,
    correlation_id TEXT,
    causation_id   TEXT
);
CREATE INDEX onewrite_history_id ON onewrite_history (id);
CREATE INDEX onewrite_history_correlation ON onewrite_history (correlation_id);
CREATE INDEX onewrite_history_key ON onewrite_history (key);

-- Where records are delivered to. A suspended sink no longer holds back retention.
CREATE TABLE onewrite_sink (
    name             TEXT PRIMARY KEY,
    created_at       INTEGER NOT NULL,
    suspended_at     INTEGER,
    suspended_reason TEXT
) WITHOUT ROWID;

-- How far each sink is in each partition: settled up to sequence; chain is the last one delivered.
CREATE TABLE onewrite_cursor (
    sink      TEXT NOT NULL,
    partition INTEGER NOT NULL,
    sequence  INTEGER NOT NULL,
    chain     INTEGER NOT NULL,
    attempts  INTEGER NOT NULL DEFAULT 0,
    retry_at  INTEGER,
    reason    TEXT,
    PRIMARY KEY (sink, partition)
) WITHOUT ROWID;

-- Who may write for a partition: every write of an owner is refused once the epoch has risen.
CREATE TABLE onewrite_lease (
    scope      TEXT NOT NULL,
    partition  INTEGER NOT NULL,
    owner      TEXT,
    epoch      INTEGER NOT NULL DEFAULT 0,
    expires_at INTEGER NOT NULL DEFAULT 0,
    takeovers  INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (scope, partition)
) WITHOUT ROWID;

-- Who shares the leases of a scope, and as which process: the leases of one that died are free at once.
CREATE TABLE onewrite_member (
    scope      TEXT NOT NULL,
    owner      TEXT NOT NULL,
    seen_until INTEGER NOT NULL,
    process    TEXT NOT NULL,
    PRIMARY KEY (scope, owner)
) WITHOUT ROWID;

-- The receiver's mark and attempts: one row for each partition of each life of each source.
CREATE TABLE onewrite_inbox (
    consumer      TEXT NOT NULL,
    source        TEXT NOT NULL,
    incarnation   TEXT NOT NULL,
    partition     INTEGER NOT NULL,
    sequence      INTEGER NOT NULL DEFAULT 0,
    last_id       TEXT NOT NULL DEFAULT '',
    attempt_first INTEGER NOT NULL DEFAULT 0,
    attempts      INTEGER NOT NULL DEFAULT 0,
    redriven      INTEGER NOT NULL DEFAULT 0, -- the highest sequence that came outside the stream
    gap           INTEGER NOT NULL DEFAULT 0, -- the gap event that waits for an operator, if above sequence
    PRIMARY KEY (consumer, source, incarnation, partition)
) WITHOUT ROWID;

-- Ids of events that are not ordered by a mark: foreign and re-driven ones.
CREATE TABLE onewrite_inbox_id (
    consumer TEXT NOT NULL,
    source   TEXT NOT NULL,
    id       TEXT NOT NULL,
    seen_at  INTEGER NOT NULL,
    PRIMARY KEY (consumer, source, id)
) WITHOUT ROWID;
CREATE INDEX onewrite_inbox_id_seen ON onewrite_inbox_id (seen_at);

-- Keys set aside, and their records in order of position. scope: relay/<sink> or inbox/<consumer>.
CREATE TABLE onewrite_parked_key (
    scope     TEXT NOT NULL,
    source    TEXT NOT NULL,
    key       TEXT NOT NULL,
    partition INTEGER NOT NULL,
    request   TEXT NOT NULL DEFAULT 'wait',
    reason    TEXT NOT NULL,
    since     INTEGER NOT NULL,
    redrives  INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (scope, source, key)
) WITHOUT ROWID;
CREATE TABLE onewrite_parked (
    position       INTEGER PRIMARY KEY AUTOINCREMENT,
    scope          TEXT NOT NULL,
    origin         TEXT NOT NULL,         -- the source whose log it comes from
    incarnation    TEXT NOT NULL,
    sequence       INTEGER NOT NULL,
    partition      INTEGER NOT NULL,
    time           INTEGER NOT NULL,
    id             TEXT NOT NULL,
    type           TEXT NOT NULL,
    aggregatetype  TEXT NOT NULL,
    aggregateid    TEXT NOT NULL,
    key            TEXT NOT NULL,
    content_type   TEXT NOT NULL,
    schema_version INTEGER NOT NULL,
    source         TEXT,
    data_schema    TEXT,
    correlation_id TEXT,
    causation_id   TEXT,
    user_id        TEXT,
    dedup_key      TEXT,
    traceparent    TEXT,
    headers        TEXT,
    payload        BLOB
);
CREATE INDEX onewrite_parked_queue ON onewrite_parked (scope, origin, key, position);

-- The guard against the forgotten event. A change of a guarded table leaves a debt whose deferred
-- foreign key points nowhere, so the transaction cannot commit; an event pays every debt. A connection
-- without foreign keys leaves its debt behind: the next change replaces it, and owes again.
CREATE TABLE onewrite_guard (guarded TEXT PRIMARY KEY, since INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE onewrite_creditor (id INTEGER PRIMARY KEY);
CREATE TABLE onewrite_debt (
    id      INTEGER PRIMARY KEY,
    guarded TEXT NOT NULL UNIQUE,
    owed_to INTEGER NOT NULL DEFAULT 1
        REFERENCES onewrite_creditor (id) DEFERRABLE INITIALLY DEFERRED
);
CREATE TRIGGER onewrite_outbox_pays AFTER INSERT ON onewrite_outbox
WHEN EXISTS (SELECT 1 FROM onewrite_debt)
BEGIN
    DELETE FROM onewrite_debt;
END;

-- A transaction that needs no event says why: INSERT INTO onewrite_no_event (reason) VALUES ('…').
CREATE TABLE onewrite_no_event (
    id     INTEGER PRIMARY KEY,
    reason TEXT NOT NULL CHECK (length(trim(reason)) > 0),
    time   INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER))
);
CREATE TRIGGER onewrite_no_event_pays AFTER INSERT ON onewrite_no_event
BEGIN
    DELETE FROM onewrite_debt;
END;

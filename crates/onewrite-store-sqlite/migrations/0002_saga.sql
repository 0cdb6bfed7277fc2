-- Schema version 2: sagas. Times are microseconds since 1970-01-01 UTC. These tables are the engine's own: programs in
-- other languages read them and write to none.

-- Definitions by what they say: name@hash. A row is never changed.
CREATE TABLE onewrite_saga_definition (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    definition TEXT NOT NULL,                         -- JSON
    since      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A row for each saga. It is written when the saga starts, when what it waits for changes, and when it ends; how far
-- it is in between says its journal.
CREATE TABLE onewrite_saga (
    id         BLOB NOT NULL PRIMARY KEY,             -- UUIDv7, 16 bytes
    name       TEXT NOT NULL,
    key        TEXT NOT NULL,                         -- what it is about
    run        INTEGER NOT NULL,                      -- counts the sagas of this name and key, from 0
    partition  INTEGER NOT NULL,                      -- whose owner runs it: the lease `saga`
    definition TEXT NOT NULL,
    input      TEXT NOT NULL,                         -- JSON
    state      TEXT NOT NULL,                         -- running, compensating, needs_operator, completed, compensated
    waits      TEXT NOT NULL,                         -- lease, timer, signal, operator, nothing: exactly one
    due_at     INTEGER,                               -- for a timer, and until when for a signal
    output     TEXT,                                  -- JSON, once it is completed
    started_at INTEGER NOT NULL,
    ended_at   INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX onewrite_saga_key ON onewrite_saga (name, key, run);
CREATE INDEX onewrite_saga_open ON onewrite_saga (partition, waits, due_at) WHERE ended_at IS NULL;
CREATE INDEX onewrite_saga_ended ON onewrite_saga (ended_at) WHERE ended_at IS NOT NULL;

-- A row for each transition of a saga.
CREATE TABLE onewrite_saga_journal (
    saga    BLOB NOT NULL,
    version INTEGER NOT NULL,                         -- from 1, without a gap
    time    INTEGER NOT NULL,                         -- when it was decided
    epoch   INTEGER NOT NULL,                         -- the lease it was written under
    entries TEXT NOT NULL,                            -- JSON: [{"done":{"step":"…","attempt":1,"output":…}}]
    PRIMARY KEY (saga, version)
) STRICT, WITHOUT ROWID;

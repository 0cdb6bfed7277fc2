-- Schema version 2: sagas. These tables are the engine's own: programs in other languages read them and write to none.

-- Definitions by what they say: name@hash. A row is never changed.
CREATE TABLE onewrite.saga_definition (
    id         text PRIMARY KEY,
    name       text NOT NULL,
    definition text NOT NULL,                             -- JSON
    since      timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- A row for each saga. It is written when the saga starts, when what it waits for changes, and when it ends; how far
-- it is in between says its journal.
CREATE TABLE onewrite.saga (
    id         uuid PRIMARY KEY,                          -- of version 7: new rows stand together
    name       text NOT NULL,
    key        text NOT NULL,                             -- what it is about
    run        integer NOT NULL,                          -- counts the sagas of this name and key, from 0
    partition  integer NOT NULL,                          -- whose owner runs it: the lease `saga`
    definition text NOT NULL,
    input      text NOT NULL,                             -- JSON
    state      text NOT NULL,                             -- running, compensating, needs_operator, completed, compensated
    waits      text NOT NULL,                             -- lease, timer, signal, operator, nothing: exactly one
    due_at     timestamptz,                               -- for a timer, and until when for a signal
    output     text,                                      -- JSON, once it is completed
    started_at timestamptz NOT NULL,
    ended_at   timestamptz,
    UNIQUE (name, key, run)
);
CREATE INDEX saga_open ON onewrite.saga (partition, waits, due_at) WHERE ended_at IS NULL;
CREATE INDEX saga_ended ON onewrite.saga (ended_at) WHERE ended_at IS NOT NULL;

-- A row for each transition of a saga.
CREATE TABLE onewrite.saga_journal (
    saga    uuid NOT NULL,
    version integer NOT NULL,                             -- from 1, without a gap
    time    timestamptz NOT NULL,                         -- when it was decided
    epoch   bigint NOT NULL,                              -- the lease it was written under
    entries text NOT NULL,                                -- JSON: [{"done":{"step":"…","attempt":1,"output":…}}]
    PRIMARY KEY (saga, version)
);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'onewrite_relay') THEN
        GRANT SELECT, INSERT ON onewrite.saga_definition, onewrite.saga_journal TO onewrite_relay;
        GRANT SELECT, INSERT, UPDATE ON onewrite.saga TO onewrite_relay;
    END IF;
END $$;

-- Schema version 2: sagas. Times are microseconds since 1970. These tables are the engine's own: programs in other
-- languages read them and write to none.

-- Definitions by what they say: name@hash. A row is never changed.
CREATE TABLE IF NOT EXISTS onewrite_saga_definition (
    id         VARCHAR(255) PRIMARY KEY,
    name       VARCHAR(255) NOT NULL,
    definition MEDIUMTEXT NOT NULL,                   -- JSON
    since      BIGINT NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {bin}
--.
-- A row for each saga. It is written when the saga starts, when what it waits for changes, and when it ends; how far
-- it is in between says its journal.
CREATE TABLE IF NOT EXISTS onewrite_saga (
    id          BINARY(16) PRIMARY KEY,               -- UUIDv7: new rows stand together
    name        VARCHAR(255) NOT NULL,
    `key`       VARCHAR(255) NOT NULL,                -- what it is about
    run         INT UNSIGNED NOT NULL,                -- counts the sagas of this name and key, from 0
    `partition` INT NOT NULL,                         -- whose owner runs it: the lease `saga`
    definition  VARCHAR(255) NOT NULL,
    input       LONGTEXT NOT NULL,                    -- JSON
    state       VARCHAR(16) NOT NULL,                 -- running, compensating, needs_operator, completed, compensated
    waits       VARCHAR(16) NOT NULL,                 -- lease, timer, signal, operator, nothing: exactly one
    due_at      BIGINT,                               -- for a timer, and until when for a signal
    output      LONGTEXT,                             -- JSON, once it is completed
    started_at  BIGINT NOT NULL,
    ended_at    BIGINT,
    UNIQUE KEY onewrite_saga_key (name, `key`, run),
    KEY onewrite_saga_open (`partition`, waits, due_at),
    KEY onewrite_saga_ended (ended_at)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {bin}
--.
-- A row for each transition of a saga.
CREATE TABLE IF NOT EXISTS onewrite_saga_journal (
    saga    BINARY(16) NOT NULL,
    version INT UNSIGNED NOT NULL,                    -- from 1, without a gap
    time    BIGINT NOT NULL,                          -- when it was decided
    epoch   BIGINT NOT NULL,                          -- the lease it was written under
    entries LONGTEXT NOT NULL,                        -- JSON: [{"done":{"step":"…","attempt":1,"output":…}}]
    PRIMARY KEY (saga, version)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {bin}

-- Schema version 3: signals for sagas, and what waits for them. Times are microseconds since 1970-01-01 UTC.

-- A row for each step of a saga that waits for a signal.
CREATE TABLE onewrite_saga_wait (
    saga        BLOB NOT NULL,
    step        TEXT NOT NULL,
    partition   INTEGER NOT NULL,                     -- whose owner takes it: the lease `saga`
    name        TEXT NOT NULL,
    correlation TEXT NOT NULL,                        -- what the signal has to be about
    arrived     INTEGER NOT NULL,                     -- 1: look for its signal
    PRIMARY KEY (saga, step)
) STRICT, WITHOUT ROWID;
CREATE INDEX onewrite_saga_wait_for ON onewrite_saga_wait (name, correlation);
CREATE INDEX onewrite_saga_wait_arrived ON onewrite_saga_wait (partition) WHERE arrived = 1;

-- A row for each signal, until its time is over, be it taken or not.
CREATE TABLE onewrite_saga_signal (
    id          TEXT NOT NULL PRIMARY KEY,            -- the same for every repetition
    name        TEXT NOT NULL,
    correlation TEXT NOT NULL,
    payload     TEXT NOT NULL,                        -- JSON
    received_at INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    taken_by    BLOB                                  -- the saga
) STRICT, WITHOUT ROWID;
CREATE INDEX onewrite_saga_signal_free ON onewrite_saga_signal (name, correlation, received_at) WHERE taken_by IS NULL;
CREATE INDEX onewrite_saga_signal_expires ON onewrite_saga_signal (expires_at);

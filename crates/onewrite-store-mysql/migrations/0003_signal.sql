-- Schema version 3: signals for sagas, and what waits for them. Times are microseconds since 1970.

-- A row for each step of a saga that waits for a signal.
CREATE TABLE IF NOT EXISTS onewrite_saga_wait (
    saga        BINARY(16) NOT NULL,
    step        VARCHAR(128) NOT NULL,
    `partition` INT NOT NULL,                         -- whose owner takes it: the lease `saga`
    name        VARCHAR(255) NOT NULL,
    correlation VARCHAR(255) NOT NULL,                -- what the signal has to be about
    arrived     TINYINT NOT NULL,                     -- 1: look for its signal
    PRIMARY KEY (saga, step),
    KEY onewrite_saga_wait_for (name, correlation),
    KEY onewrite_saga_wait_arrived (arrived, `partition`)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {bin}
--.
-- A row for each signal, until its time is over, be it taken or not.
CREATE TABLE IF NOT EXISTS onewrite_saga_signal (
    id          VARCHAR(255) PRIMARY KEY,             -- the same for every repetition
    name        VARCHAR(255) NOT NULL,
    correlation VARCHAR(255) NOT NULL,
    payload     LONGTEXT NOT NULL,                    -- JSON
    received_at BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL,
    taken_by    BINARY(16),                           -- the saga
    KEY onewrite_saga_signal_free (name, correlation, taken_by, received_at),
    KEY onewrite_saga_signal_expires (expires_at)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {bin}

-- Schema version 3: signals for sagas, and what waits for them.

-- A row for each step of a saga that waits for a signal.
CREATE TABLE onewrite.saga_wait (
    saga        uuid NOT NULL,
    step        text NOT NULL,
    partition   integer NOT NULL,                         -- whose owner takes it: the lease `saga`
    name        text NOT NULL,
    correlation text NOT NULL,                            -- what the signal has to be about
    arrived     boolean NOT NULL,                         -- look for its signal
    PRIMARY KEY (saga, step)
);
CREATE INDEX saga_wait_for ON onewrite.saga_wait (name, correlation);
CREATE INDEX saga_wait_arrived ON onewrite.saga_wait (partition) WHERE arrived;

-- A row for each signal, until its time is over, be it taken or not.
CREATE TABLE onewrite.saga_signal (
    id          text PRIMARY KEY,                         -- the same for every repetition
    name        text NOT NULL,
    correlation text NOT NULL,
    payload     text NOT NULL,                            -- JSON
    received_at timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    taken_by    uuid                                      -- the saga
);
CREATE INDEX saga_signal_free ON onewrite.saga_signal (name, correlation, received_at) WHERE taken_by IS NULL;
CREATE INDEX saga_signal_expires ON onewrite.saga_signal (expires_at);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'onewrite_relay') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON onewrite.saga_wait, onewrite.saga_signal TO onewrite_relay;
    END IF;
    -- Who receives events may hand them on as signals.
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'onewrite_receive') THEN
        GRANT SELECT, INSERT ON onewrite.saga_signal TO onewrite_receive;
        GRANT SELECT, UPDATE (arrived) ON onewrite.saga_wait TO onewrite_receive;
    END IF;
END $$;

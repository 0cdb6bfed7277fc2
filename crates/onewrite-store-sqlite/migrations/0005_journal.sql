-- Schema version 5: the journal of sagas in the order of appending. Transitions of many sagas are written at once: side by
-- side they fill a page or two, where the journals of these sagas are a page each.
ALTER TABLE onewrite_saga_journal RENAME TO onewrite_saga_journal_before;
CREATE TABLE onewrite_saga_journal (
    saga    BLOB NOT NULL,
    version INTEGER NOT NULL,                         -- from 1, without a gap
    time    INTEGER NOT NULL,                         -- when it was decided
    epoch   INTEGER NOT NULL,                         -- the lease it was written under
    entries TEXT NOT NULL,                            -- JSON: [{"done":{"step":"…","attempt":1,"output":…}}]
    PRIMARY KEY (saga, version)
) STRICT;
INSERT INTO onewrite_saga_journal SELECT saga, version, time, epoch, entries FROM onewrite_saga_journal_before;
DROP TABLE onewrite_saga_journal_before;

-- What an owner works on stands together, apart from the many that wait.
DROP INDEX onewrite_saga_open;
CREATE INDEX onewrite_saga_open ON onewrite_saga (waits, partition, due_at) WHERE ended_at IS NULL;

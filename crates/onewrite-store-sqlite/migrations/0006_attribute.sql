-- Schema version 6: what sagas are looked for by.

-- A row for each attribute of each saga. It goes with its saga; one that an older program has left names none.
CREATE TABLE onewrite_saga_attribute (
    saga  BLOB NOT NULL,
    name  TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (saga, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX onewrite_saga_attribute_value ON onewrite_saga_attribute (name, value, saga);

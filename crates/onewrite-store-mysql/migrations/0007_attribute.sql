-- Schema version 7: what sagas are looked for by.

-- A row for each attribute of each saga. It goes with its saga; one that an older program has left names none.
CREATE TABLE IF NOT EXISTS onewrite_saga_attribute (
    saga  BINARY(16) NOT NULL,
    name  VARCHAR(128) NOT NULL,
    value VARCHAR(255) NOT NULL,
    PRIMARY KEY (saga, name),
    KEY onewrite_saga_attribute_value (name, value, saga)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {bin}

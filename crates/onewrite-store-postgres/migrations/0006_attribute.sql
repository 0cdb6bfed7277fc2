-- Schema version 6: what sagas are looked for by.

-- A row for each attribute of each saga. It goes with its saga; one that an older program has left names none.
CREATE TABLE onewrite.saga_attribute (
    saga  uuid NOT NULL,
    name  text NOT NULL,
    value text NOT NULL,
    PRIMARY KEY (saga, name)
);
CREATE INDEX saga_attribute_value ON onewrite.saga_attribute (name, value, saga);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'onewrite_relay') THEN
        GRANT SELECT, INSERT, DELETE ON onewrite.saga_attribute TO onewrite_relay;
    END IF;
    -- Where the function is of before: a claim whose time is over before it has counted its members is one of them.
    EXECUTE replace(pg_get_functiondef('onewrite.claim'::regproc),
        'WHERE scope = wanted AND seen_until < clock_timestamp();',
        'WHERE scope = wanted AND owner <> claimant AND seen_until < clock_timestamp();');
END $$;

-- Schema version 5: sagas that ended long ago are deleted.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'onewrite_relay') THEN
        GRANT DELETE ON onewrite.saga, onewrite.saga_journal TO onewrite_relay;
    END IF;
END $$;

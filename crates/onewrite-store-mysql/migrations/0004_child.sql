-- Schema version 4: sagas that are steps of others.

-- The step that it is, as the other saga's id and the step's name: 01964b2e-7d1c-7a00-8000-0123456789ab/ship. A
-- migration that was broken off is begun anew, and not every server knows ADD COLUMN IF NOT EXISTS.
SET @onewrite_add = IF(
    EXISTS (SELECT 1 FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = 'onewrite_saga' AND column_name = 'parent'),
    'DO 0',
    'ALTER TABLE onewrite_saga ADD COLUMN parent VARCHAR(255)')
--.
PREPARE onewrite_add FROM @onewrite_add
--.
EXECUTE onewrite_add
--.
DEALLOCATE PREPARE onewrite_add

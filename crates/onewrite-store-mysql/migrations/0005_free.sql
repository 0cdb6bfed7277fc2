-- Schema version 5: signals that nobody has taken stand together, apart from the many that are kept although they are
-- taken. Requests are found by their name alone, and what is matched with those who wait by no name at all.

-- A migration that was broken off is begun anew. The new index is there before the old one is gone.
SET @onewrite_add = IF(
    EXISTS (SELECT 1 FROM information_schema.statistics WHERE table_schema = DATABASE() AND table_name = 'onewrite_saga_signal' AND index_name = 'onewrite_saga_signal_open'),
    'DO 0',
    'ALTER TABLE onewrite_saga_signal ADD KEY onewrite_saga_signal_open (taken_by, name, correlation, received_at)')
--.
PREPARE onewrite_add FROM @onewrite_add
--.
EXECUTE onewrite_add
--.
DEALLOCATE PREPARE onewrite_add
--.
SET @onewrite_drop = IF(
    EXISTS (SELECT 1 FROM information_schema.statistics WHERE table_schema = DATABASE() AND table_name = 'onewrite_saga_signal' AND index_name = 'onewrite_saga_signal_free'),
    'ALTER TABLE onewrite_saga_signal DROP KEY onewrite_saga_signal_free',
    'DO 0')
--.
PREPARE onewrite_drop FROM @onewrite_drop
--.
EXECUTE onewrite_drop
--.
DEALLOCATE PREPARE onewrite_drop

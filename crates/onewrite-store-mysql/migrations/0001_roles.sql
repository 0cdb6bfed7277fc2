-- Roles with the least that each kind of program needs. They belong to the server, so they are made once, and who
-- has one has it in every database that grants it something; who may not make roles goes without, and grants by
-- hand (book/src/mysql.md). What the outbox's trigger and the procedures do, they do for their owner.
CREATE ROLE IF NOT EXISTS onewrite_emit
--.
CREATE ROLE IF NOT EXISTS onewrite_receive
--.
CREATE ROLE IF NOT EXISTS onewrite_relay
--.
CREATE ROLE IF NOT EXISTS onewrite_operator
--.
-- Who emits inserts.
GRANT INSERT ON onewrite_outbox TO onewrite_emit, onewrite_receive
--.
GRANT EXECUTE ON PROCEDURE onewrite_lock_keys TO onewrite_emit, onewrite_receive
--.
GRANT SELECT ON onewrite_source TO onewrite_emit, onewrite_receive, onewrite_relay
--.
GRANT SELECT ON onewrite_incarnation TO onewrite_emit, onewrite_receive, onewrite_relay
--.
-- A receiver keeps marks, ids and parked records, and leases a broker's lanes.
GRANT SELECT, INSERT, UPDATE ON onewrite_inbox TO onewrite_receive
--.
GRANT SELECT, INSERT, DELETE ON onewrite_inbox_id TO onewrite_receive
--.
GRANT EXECUTE ON PROCEDURE onewrite_receive TO onewrite_receive
--.
GRANT EXECUTE ON PROCEDURE onewrite_forget TO onewrite_receive
--.
GRANT SELECT, INSERT, DELETE ON onewrite_parked TO onewrite_receive, onewrite_relay
--.
GRANT SELECT, INSERT, UPDATE, DELETE ON onewrite_parked_key TO onewrite_receive, onewrite_relay
--.
GRANT SELECT, UPDATE ON onewrite_lease TO onewrite_receive, onewrite_relay
--.
GRANT SELECT, DELETE ON onewrite_member TO onewrite_receive, onewrite_relay
--.
GRANT EXECUTE ON PROCEDURE onewrite_claim TO onewrite_receive, onewrite_relay
--.
-- A relay places what is committed, reads the log, keeps cursors, leases and parked records, and trims.
GRANT SELECT, DELETE ON onewrite_outbox TO onewrite_relay
--.
GRANT SELECT, INSERT, DELETE ON onewrite_log TO onewrite_relay
--.
GRANT SELECT, UPDATE ON onewrite_counter TO onewrite_relay
--.
GRANT SELECT, UPDATE ON onewrite_flush TO onewrite_relay
--.
GRANT SELECT, INSERT, UPDATE, DELETE ON onewrite_cursor TO onewrite_relay
--.
GRANT SELECT, INSERT, UPDATE ON onewrite_sink TO onewrite_relay
--.
GRANT SELECT, INSERT, UPDATE ON onewrite_trimmed TO onewrite_relay
--.
GRANT SELECT, INSERT, DELETE ON onewrite_history TO onewrite_relay
--.
GRANT SELECT ON onewrite_inbox TO onewrite_relay
--.
-- It also runs sagas.
GRANT SELECT, INSERT ON onewrite_saga_definition TO onewrite_relay
--.
GRANT SELECT, INSERT, UPDATE, DELETE ON onewrite_saga TO onewrite_relay
--.
GRANT SELECT, INSERT, DELETE ON onewrite_saga_journal TO onewrite_relay
--.
GRANT SELECT, INSERT, DELETE ON onewrite_saga_attribute TO onewrite_relay
--.
GRANT SELECT, INSERT, UPDATE, DELETE ON onewrite_saga_wait TO onewrite_relay
--.
GRANT SELECT, INSERT, UPDATE, DELETE ON onewrite_saga_signal TO onewrite_relay
--.
-- Who receives events may hand them on as signals.
GRANT SELECT, INSERT ON onewrite_saga_signal TO onewrite_receive
--.
GRANT SELECT, UPDATE ON onewrite_saga_wait TO onewrite_receive
--.
-- An operator works on parked keys, gaps and sinks. What begins another life of the source is for the owner.
GRANT onewrite_emit TO onewrite_operator
--.
GRANT onewrite_receive TO onewrite_operator
--.
GRANT onewrite_relay TO onewrite_operator

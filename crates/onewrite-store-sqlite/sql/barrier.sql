-- The barrier: a row for each call that a participant has passed in a transaction of its own, so that calls which
-- come twice, in the wrong order or too late change nothing. It is the table `dtm_barrier.barrier` of clients of
-- dtm, under the name that SQLite leaves to it, for it has no schemas. Programs in any language write it, first
-- in the transaction of the effect:
--
--   INSERT INTO dtm_barrier (trans_type, gid, branch_id, op, barrier_id, reason)
--   VALUES ('saga', GID, BRANCH, OP, '01', OP) ON CONFLICT DO NOTHING;
--
-- An operation that undoes another inserts that one's row first, with its own name as the reason: `compensate` and
-- `rollback` that of `action`, `cancel` that of `try`. Carry the effect out if its own row was inserted and that one
-- was not. Never look first: what was read may have changed by the time it is acted on.
CREATE TABLE IF NOT EXISTS dtm_barrier (
    id          INTEGER PRIMARY KEY,
    trans_type  TEXT NOT NULL DEFAULT '',                   -- saga, tcc, …
    gid         TEXT NOT NULL DEFAULT '',                   -- the saga's id
    branch_id   TEXT NOT NULL DEFAULT '',                   -- the step's name
    op          TEXT NOT NULL DEFAULT '',                   -- action, compensate, try, confirm, cancel
    barrier_id  TEXT NOT NULL DEFAULT '',                   -- counts the transactions of one call: 01, 02
    reason      TEXT NOT NULL DEFAULT '',                   -- the operation that inserted the row
    create_time TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,    -- UTC
    update_time TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT uniq_barrier UNIQUE (gid, branch_id, op, barrier_id)
);
-- For retention.
CREATE INDEX IF NOT EXISTS dtm_barrier_create_time ON dtm_barrier (create_time);

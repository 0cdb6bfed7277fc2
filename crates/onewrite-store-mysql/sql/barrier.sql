-- The barrier: a row for each call that a participant has passed in a transaction of its own, so that calls which
-- come twice, in the wrong order or too late change nothing. It is the table that clients of dtm use: one for each
-- server, in a database of its own. Programs in any language write it, first in the transaction of the effect:
--
--   INSERT IGNORE INTO dtm_barrier.barrier (trans_type, gid, branch_id, op, barrier_id, reason)
--   VALUES ('saga', GID, BRANCH, OP, '01', OP)
--
-- An operation that undoes another inserts that one's row first, with its own name as the reason: `compensate` and
-- `rollback` that of `action`, `cancel` that of `try`. Carry the effect out if its own row was inserted (one row was
-- affected) and that one was not. Never look first: what was read may have changed by the time it is acted on,
-- while an insert waits for a rival's transaction to end. Values that are too long are shortened, not refused.
CREATE DATABASE IF NOT EXISTS dtm_barrier CHARACTER SET utf8mb4;
CREATE TABLE IF NOT EXISTS dtm_barrier.barrier (
    id          BIGINT AUTO_INCREMENT PRIMARY KEY,
    trans_type  VARCHAR(45) NOT NULL DEFAULT '',             -- saga, tcc, …
    gid         VARCHAR(128) NOT NULL DEFAULT '',            -- the saga's id
    branch_id   VARCHAR(128) NOT NULL DEFAULT '',            -- the step's name
    op          VARCHAR(45) NOT NULL DEFAULT '',             -- action, compensate, try, confirm, cancel
    barrier_id  VARCHAR(45) NOT NULL DEFAULT '',             -- counts the transactions of one call: 01, 02
    reason      VARCHAR(45) NOT NULL DEFAULT '',             -- the operation that inserted the row
    create_time DATETIME NOT NULL DEFAULT (UTC_TIMESTAMP()), -- UTC, whatever the time zone of a session is
    update_time DATETIME NOT NULL DEFAULT (UTC_TIMESTAMP()),
    UNIQUE KEY uniq_barrier (gid, branch_id, op, barrier_id),
    KEY create_time (create_time)                            -- for retention
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

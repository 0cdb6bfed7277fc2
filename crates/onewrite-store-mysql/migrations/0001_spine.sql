-- Schema version 1, for MariaDB 10.6 and later and MySQL 8.0 and later. Every table is documented here,
-- because programs in other languages write to some of them: onewrite_outbox, and the procedure
-- onewrite_receive. Times are microseconds since 1970. {bin} stands for the server's binary collation without
-- padding. A line with two dashes and a dot ends a statement.

-- The one row about this source. Read whenever an event is emitted, so nothing that changes often is here.
CREATE TABLE onewrite_source (
    one             TINYINT PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    name            VARCHAR(255) NOT NULL,
    partitions      INT NOT NULL CHECK (partitions BETWEEN 1 AND 65535),
    event_bytes_max INT NOT NULL DEFAULT 1048576,
    registered      VARCHAR(700) NOT NULL,           -- server and database: another one needs a person
    schema_version  INT NOT NULL,
    min_compatible  INT NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {bin}
--.
-- The lives of this source: records from first_sequence on belong to the row's incarnation.
CREATE TABLE onewrite_incarnation (
    first_sequence BIGINT PRIMARY KEY,
    incarnation    CHAR(16) NOT NULL,
    since          BIGINT NOT NULL,
    reason         VARCHAR(255) NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {bin}
--.
-- The highest sequence drawn. Who places events holds its lock, so there is one at a time.
CREATE TABLE onewrite_counter (
    one      TINYINT PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    sequence BIGINT NOT NULL DEFAULT 0
) ENGINE = InnoDB
--.
INSERT INTO onewrite_counter VALUES (1, 0)
--.
-- Written by who has read what another placed: its commit brings that to the disk as well.
CREATE TABLE onewrite_flush (
    one TINYINT PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    n   BIGINT NOT NULL DEFAULT 0
) ENGINE = InnoDB
--.
INSERT INTO onewrite_flush VALUES (1, 0)
--.
-- Who emits locks the row of its key's hash until its transaction ends, so that the events of a key enter the
-- outbox in the order in which their transactions commit. The rows never change.
CREATE TABLE onewrite_lock (bucket INT PRIMARY KEY) ENGINE = InnoDB
--.
INSERT INTO onewrite_lock
    WITH RECURSIVE n (bucket) AS (SELECT 0 UNION ALL SELECT bucket + 1 FROM n WHERE bucket < 999)
    SELECT bucket FROM n
--.
INSERT INTO onewrite_lock SELECT bucket + 1000 FROM onewrite_lock
--.
INSERT INTO onewrite_lock SELECT bucket + 2000 FROM onewrite_lock
--.
-- Where anybody inserts: aggregatetype, aggregateid, type and payload are enough. After the commit the row
-- moves to the log, where it gets its place. `time` is the event's own and may be any; retention and lag go
-- by placed_at, which is when it entered the outbox.
CREATE TABLE onewrite_outbox (
    entered        BIGINT UNSIGNED NOT NULL DEFAULT 0 PRIMARY KEY, -- given when the key's lock is held: never set it
    entered_at     BIGINT NOT NULL DEFAULT 0,         -- likewise
    id             VARCHAR(255) NOT NULL DEFAULT (UUID()),
    aggregatetype  VARCHAR(255) NOT NULL,
    aggregateid    VARCHAR(1024) NOT NULL,
    type           VARCHAR(255) NOT NULL,
    payload        LONGTEXT,                          -- JSON or other text
    payload_bytes  LONGBLOB,                          -- or anything else
    `key`          VARCHAR(1024),                     -- what stays in order together; aggregateid when NULL
    time           BIGINT,                            -- now when NULL
    content_type   VARCHAR(255) NOT NULL DEFAULT 'application/json',
    schema_version INT UNSIGNED NOT NULL DEFAULT 1,
    source         VARCHAR(1024),                     -- CloudEvents source when it is not this store's
    data_schema    VARCHAR(1024),
    correlation_id VARCHAR(255),
    causation_id   VARCHAR(255),
    user_id        VARCHAR(255),
    dedup_key      VARCHAR(255),
    traceparent    VARCHAR(255),
    headers        MEDIUMTEXT                         -- JSON: [["name","value"], …]
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {bin}
--.
-- UUID_SHORT rises with each call while a server runs, and from one start to the next; of another server's
-- numbers (after a failover) who places them knows.
CREATE TRIGGER onewrite_outbox_enters BEFORE INSERT ON onewrite_outbox FOR EACH ROW
BEGIN
    DECLARE bytes_max, locked INT;
    IF NEW.`key` IS NULL THEN
        SET NEW.`key` = NEW.aggregateid;
    END IF;
    IF NEW.`key` = '' OR NEW.id = '' OR NEW.type = '' OR NEW.aggregatetype = '' THEN
        SIGNAL SQLSTATE 'OW006' SET MESSAGE_TEXT = 'an event needs an id, a type, an aggregate type, and a key or aggregate id, none of them empty';
    END IF;
    SELECT event_bytes_max INTO bytes_max FROM onewrite_source;
    IF COALESCE(OCTET_LENGTH(NEW.payload_bytes), OCTET_LENGTH(NEW.payload), 0) > bytes_max THEN
        SIGNAL SQLSTATE 'OW005' SET MESSAGE_TEXT = 'the event takes more bytes than onewrite_source.event_bytes_max: store the large part elsewhere and emit a reference';
    END IF;
    SELECT bucket INTO locked FROM onewrite_lock WHERE bucket = CRC32(NEW.`key`) % 4000 FOR UPDATE;
    SET NEW.entered = UUID_SHORT();
    SET NEW.entered_at = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6));
    SET NEW.time = COALESCE(NEW.time, NEW.entered_at);
END
--.
-- Locks the keys of several events before they are inserted, given as a JSON list of texts, in an order in which
-- no two transactions wait for each other.
CREATE PROCEDURE onewrite_lock_keys(names LONGTEXT CHARACTER SET utf8mb4)
BEGIN
    DECLARE buckets LONGTEXT;
    SELECT GROUP_CONCAT(DISTINCT CRC32(name) % 4000 ORDER BY CRC32(name) % 4000) INTO buckets
        FROM JSON_TABLE(names, '$[*]' COLUMNS (name VARCHAR(1024) CHARACTER SET utf8mb4 PATH '$')) n;
    SET @onewrite_sql = CONCAT('SELECT COUNT(*) INTO @onewrite_locked FROM (SELECT 1 FROM onewrite_lock WHERE bucket IN (',
        COALESCE(buckets, -1), ') ORDER BY bucket FOR UPDATE) l');
    PREPARE onewrite_locks FROM @onewrite_sql;
    EXECUTE onewrite_locks;
    DEALLOCATE PREPARE onewrite_locks;
END
--.
-- The log. Its sequence is the order of commits.
CREATE TABLE onewrite_log (
    sequence       BIGINT PRIMARY KEY,
    `partition`    INT NOT NULL,
    placed_at      BIGINT NOT NULL,
    time           BIGINT NOT NULL,
    id             VARCHAR(255) NOT NULL,
    type           VARCHAR(255) NOT NULL,
    aggregatetype  VARCHAR(255) NOT NULL,
    aggregateid    VARCHAR(1024) NOT NULL,
    `key`          VARCHAR(1024) NOT NULL,
    content_type   VARCHAR(255) NOT NULL,
    schema_version INT UNSIGNED NOT NULL,
    source         VARCHAR(1024),
    data_schema    VARCHAR(1024),
    correlation_id VARCHAR(255),
    causation_id   VARCHAR(255),
    user_id        VARCHAR(255),
    dedup_key      VARCHAR(255),
    traceparent    VARCHAR(255),
    headers        MEDIUMTEXT,
    payload        LONGBLOB,
    KEY onewrite_log_partition (`partition`, sequence)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {bin}
--.
-- The highest sequence trimmed from each partition: a receiver that stands before it has lost records.
CREATE TABLE onewrite_trimmed (`partition` INT PRIMARY KEY, sequence BIGINT NOT NULL) ENGINE = InnoDB
--.
-- What remains of records that were delivered and trimmed: their story, not their data.
CREATE TABLE onewrite_history (
    sequence       BIGINT PRIMARY KEY,
    `partition`    INT NOT NULL,
    placed_at      BIGINT NOT NULL,
    time           BIGINT NOT NULL,
    id             VARCHAR(255) NOT NULL,
    type           VARCHAR(255) NOT NULL,
    `key`          VARCHAR(1024) NOT NULL,
    correlation_id VARCHAR(255),
    causation_id   VARCHAR(255),
    KEY onewrite_history_id (id),
    KEY onewrite_history_correlation (correlation_id),
    KEY onewrite_history_key (`key`(191))
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {bin}
--.
-- Where records are delivered to. A suspended sink no longer holds back retention.
CREATE TABLE onewrite_sink (
    name             VARCHAR(255) PRIMARY KEY,
    created_at       BIGINT NOT NULL,
    suspended_at     BIGINT,
    suspended_reason TEXT
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {bin}
--.
-- How far each sink is in each partition: settled up to sequence; chain is the last one delivered.
CREATE TABLE onewrite_cursor (
    sink        VARCHAR(255) NOT NULL,
    `partition` INT NOT NULL,
    sequence    BIGINT NOT NULL,
    chain       BIGINT NOT NULL,
    attempts    BIGINT NOT NULL DEFAULT 0,
    retry_at    BIGINT,
    reason      TEXT,
    PRIMARY KEY (sink, `partition`)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {bin}
--.
-- Who may write for a partition (or read a broker's lane): every write of an owner is refused once the
-- epoch has risen.
CREATE TABLE onewrite_lease (
    scope       VARCHAR(255) NOT NULL,
    `partition` INT NOT NULL,
    owner       VARCHAR(255),
    epoch       BIGINT NOT NULL DEFAULT 0,
    expires_at  BIGINT NOT NULL DEFAULT 0,
    takeovers   BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (scope, `partition`)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {bin}
--.
-- Scopes that are leased. Claims of one scope follow one another by the lock of its row.
CREATE TABLE onewrite_scope (name VARCHAR(255) PRIMARY KEY) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {bin}
--.
-- Who shares the leases of a scope.
CREATE TABLE onewrite_member (
    scope      VARCHAR(255) NOT NULL,
    owner      VARCHAR(255) NOT NULL,
    seen_until BIGINT NOT NULL,
    PRIMARY KEY (scope, owner)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {bin}
--.
-- The receiver's mark and attempts: one row for each partition of each life of each source.
CREATE TABLE onewrite_inbox (
    consumer      VARCHAR(255) NOT NULL,
    source        VARCHAR(255) NOT NULL,
    incarnation   CHAR(16) NOT NULL,
    `partition`   INT NOT NULL,
    sequence      BIGINT NOT NULL DEFAULT 0,
    last_id       VARCHAR(255) NOT NULL DEFAULT '',
    attempt_first BIGINT NOT NULL DEFAULT 0,
    attempts      BIGINT NOT NULL DEFAULT 0,
    redriven      BIGINT NOT NULL DEFAULT 0, -- the highest sequence that came outside the stream
    gap           BIGINT NOT NULL DEFAULT 0, -- the gap event that waits for an operator, if above sequence
    PRIMARY KEY (consumer, source, incarnation, `partition`)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {bin}
--.
-- Ids of events that are not ordered by a mark: foreign and re-driven ones. Of source and id only the
-- SHA-256 of both is kept (with a byte 0 in between), which fits whatever their length.
CREATE TABLE onewrite_inbox_id (
    consumer VARCHAR(255) NOT NULL,
    digest   BINARY(32) NOT NULL,
    seen_at  BIGINT NOT NULL,
    PRIMARY KEY (consumer, digest),
    KEY onewrite_inbox_id_seen (seen_at)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {bin}
--.
-- Keys set aside. scope: relay/<sink> or inbox/<consumer>. The digest is SHA-256 of source, a byte 0, and key.
CREATE TABLE onewrite_parked_key (
    scope       VARCHAR(255) NOT NULL,
    digest      BINARY(32) NOT NULL,
    source      VARCHAR(1024) NOT NULL,
    `key`       VARCHAR(1024) NOT NULL,
    `partition` INT NOT NULL,
    request     VARCHAR(20) NOT NULL DEFAULT 'wait',
    reason      TEXT NOT NULL,
    since       BIGINT NOT NULL,
    redrives    BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (scope, digest)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {bin}
--.
-- Their records, in order of position.
CREATE TABLE onewrite_parked (
    position       BIGINT AUTO_INCREMENT PRIMARY KEY,
    scope          VARCHAR(255) NOT NULL,
    digest         BINARY(32) NOT NULL,
    origin         VARCHAR(1024) NOT NULL,            -- the source whose log it comes from
    incarnation    CHAR(16) NOT NULL,
    sequence       BIGINT NOT NULL,
    `partition`    INT NOT NULL,
    time           BIGINT NOT NULL,
    id             VARCHAR(255) NOT NULL,
    type           VARCHAR(255) NOT NULL,
    aggregatetype  VARCHAR(255) NOT NULL,
    aggregateid    VARCHAR(1024) NOT NULL,
    `key`          VARCHAR(1024) NOT NULL,
    content_type   VARCHAR(255) NOT NULL,
    schema_version INT UNSIGNED NOT NULL,
    source         VARCHAR(1024),
    data_schema    VARCHAR(1024),
    correlation_id VARCHAR(255),
    causation_id   VARCHAR(255),
    user_id        VARCHAR(255),
    dedup_key      VARCHAR(255),
    traceparent    VARCHAR(255),
    headers        MEDIUMTEXT,
    payload        LONGBLOB,
    KEY onewrite_parked_queue (scope, digest, position)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {bin}

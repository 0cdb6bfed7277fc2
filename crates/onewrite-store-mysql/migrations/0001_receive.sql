-- Whether an event is new to `consumer`: call it in the transaction of the reaction, react when `is_new` says 1,
-- commit. With the coordinates of a delivery (its onewrite… attributes) the receiver's mark decides; a missing
-- predecessor is an error (OW017), for the event must come again after it. Without `previous` (a foreign
-- sender, or a record delivered again outside its stream) the id decides. Ids are remembered in either case;
-- call onewrite_forget now and then.
CREATE PROCEDURE onewrite_receive(
    p_consumer VARCHAR(255) CHARACTER SET utf8mb4 COLLATE {bin}, p_source VARCHAR(255) CHARACTER SET utf8mb4 COLLATE {bin},
    p_id VARCHAR(1024) CHARACTER SET utf8mb4 COLLATE {bin}, p_incarnation CHAR(16) CHARACTER SET utf8mb4 COLLATE {bin},
    p_partition INT, p_sequence BIGINT, p_previous BIGINT, OUT is_new BOOLEAN
)
receiving: BEGIN
    DECLARE mark, again BIGINT;
    DECLARE known VARCHAR(255) CHARACTER SET utf8mb4 COLLATE {bin};
    DECLARE life CHAR(16) CHARACTER SET utf8mb4 COLLATE {bin} DEFAULT COALESCE(p_incarnation, '0000000000000000');
    SET p_partition = COALESCE(p_partition, 0), p_sequence = COALESCE(p_sequence, 0), is_new = FALSE;
    IF p_id = CONCAT('gap-', life, '-', p_partition, '-', p_sequence) THEN
        SIGNAL SQLSTATE 'OW017' SET MESSAGE_TEXT = 'the source no longer has the events before this one: compare both sides, then accept it by moving sequence and last_id of this lane in onewrite_inbox';
    END IF;
    INSERT INTO onewrite_inbox (consumer, source, incarnation, `partition`) VALUES (p_consumer, p_source, life, p_partition)
        ON DUPLICATE KEY UPDATE gap = gap;
    SELECT sequence, last_id, redriven INTO mark, known, again FROM onewrite_inbox
        WHERE consumer = p_consumer AND source = p_source AND incarnation = life AND `partition` = p_partition FOR UPDATE;
    IF p_previous IS NOT NULL AND p_sequence <= mark THEN
        IF p_sequence = mark AND p_id <> known THEN
            SIGNAL SQLSTATE 'OW013' SET MESSAGE_TEXT = 'the source has another event at this sequence than it delivered before: it went back in time';
        END IF;
        LEAVE receiving;
    END IF;
    IF p_previous > mark THEN
        SIGNAL SQLSTATE 'OW017' SET MESSAGE_TEXT = 'a predecessor is missing: do not acknowledge this event, it must come again after its predecessor';
    END IF;
    -- Insert first. An event of the stream may have come outside of it before: its sender had given it up.
    INSERT IGNORE INTO onewrite_inbox_id (consumer, digest, seen_at)
        VALUES (p_consumer, UNHEX(SHA2(CONCAT(p_source, X'00', p_id), 256)), TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)));
    SET is_new = ROW_COUNT() = 1;
    UPDATE onewrite_inbox SET
            sequence = IF(p_previous IS NULL, sequence, p_sequence),
            last_id = IF(p_previous IS NULL, last_id, p_id),
            redriven = IF(p_previous IS NULL, GREATEST(redriven, p_sequence), redriven)
        WHERE consumer = p_consumer AND source = p_source AND incarnation = life AND `partition` = p_partition;
END
--.
-- Forgets ids of events received longer ago than so many seconds, which must exceed the time after which any
-- sender may still send an event again.
CREATE PROCEDURE onewrite_forget(p_consumer VARCHAR(255) CHARACTER SET utf8mb4 COLLATE {bin}, seconds BIGINT)
BEGIN
    DELETE FROM onewrite_inbox_id WHERE consumer = p_consumer
        AND seen_at < TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) - seconds * 1000000;
END

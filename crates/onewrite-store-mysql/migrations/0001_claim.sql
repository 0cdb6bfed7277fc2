-- Renews a member's leases and takes its fair share of free and expired ones, in one call: a process that
-- stands still must not hold up the others' claims. The share is that of onewrite-core's `lease::share`.
-- Returns the leases held, then how many of them to give back.
CREATE PROCEDURE onewrite_claim(wanted VARCHAR(255) CHARACTER SET utf8mb4 COLLATE {bin}, leases INT, claimant VARCHAR(255) CHARACTER SET utf8mb4 COLLATE {bin}, ttl BIGINT, takes BOOLEAN)
BEGIN
    DECLARE members, held, extras, fair, known, place, missing INT DEFAULT 0;
    DECLARE at BIGINT;
    DECLARE done BOOLEAN DEFAULT FALSE;
    -- One that is locked is being written to by its owner, and is left alone.
    DECLARE free CURSOR FOR
        SELECT `partition` FROM onewrite_lease
        WHERE scope = wanted AND (owner IS NULL OR (owner <> claimant AND expires_at <= at))
        ORDER BY `partition` LIMIT missing FOR UPDATE SKIP LOCKED;
    DECLARE CONTINUE HANDLER FOR NOT FOUND SET done = TRUE;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN
        ROLLBACK;
        RESIGNAL;
    END;
    START TRANSACTION;
    INSERT INTO onewrite_scope (name) VALUES (wanted) ON DUPLICATE KEY UPDATE name = name;
    SELECT 1 INTO known FROM onewrite_scope WHERE name = wanted FOR UPDATE;
    SET at = CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED);
    INSERT INTO onewrite_member (scope, owner, seen_until) VALUES (wanted, claimant, at + ttl)
        ON DUPLICATE KEY UPDATE seen_until = VALUES(seen_until);
    DELETE FROM onewrite_member WHERE scope = wanted AND seen_until < at;
    SELECT COUNT(*) INTO known FROM onewrite_lease WHERE scope = wanted;
    WHILE known < leases DO
        INSERT INTO onewrite_lease (scope, `partition`) VALUES (wanted, known);
        SET known = known + 1;
    END WHILE;
    UPDATE onewrite_lease SET expires_at = at + ttl WHERE scope = wanted AND owner = claimant;
    SELECT COUNT(*) INTO held FROM onewrite_lease WHERE scope = wanted AND owner = claimant;
    SELECT COUNT(*) INTO members FROM onewrite_member WHERE scope = wanted;
    SELECT COUNT(*) INTO extras FROM (
        SELECT 1 FROM onewrite_lease WHERE scope = wanted AND owner <> claimant
        GROUP BY owner HAVING COUNT(*) > leases DIV members) more;
    SET fair = leases DIV members + (extras < leases MOD members);
    IF takes AND fair > held THEN
        SET missing = fair - held;
        OPEN free;
        taking: LOOP
            FETCH free INTO place;
            IF done THEN
                LEAVE taking;
            END IF;
            -- An epoch beyond what any clock has given: one that a failover lost must not come again.
            UPDATE onewrite_lease SET takeovers = takeovers + (owner IS NOT NULL), owner = claimant, expires_at = at + ttl,
                    epoch = GREATEST(epoch + 1, at DIV 1000)
                WHERE scope = wanted AND `partition` = place;
        END LOOP;
        CLOSE free;
    END IF;
    SELECT `partition`, epoch FROM onewrite_lease WHERE scope = wanted AND owner = claimant ORDER BY `partition`;
    COMMIT;
    SELECT GREATEST(held - fair, 0);
END

//! Retention: what every live sink has settled leaves the log, and its story stays for a while.

use onewrite_core::{
    Result, Sequence, Text, Timestamp,
    sabotage::{Defect, Sabotage},
    store::SinkState,
};
use rusqlite::{Connection, params};

use crate::{claim::execute, error::While, schema, writer::now};

/// Deletes a stretch of settled records older than `before`, and history older than `history_before`.
pub(crate) fn trim(
    tx: &Connection,
    before: Timestamp,
    history_before: Timestamp,
    limit: u32,
    sabotage: Sabotage,
) -> Result<u64> {
    if sabotage.has(Defect::NoRetention) {
        return Ok(0);
    }
    // The oldest records, as long as they are settled and old enough: always a prefix of the log, so
    // that one number says what is gone.
    let mut settled = tx
        .prepare_cached(
            "SELECT sequence, placed_at FROM onewrite_outbox
             WHERE sequence <= coalesce((SELECT min(c.sequence) FROM onewrite_cursor c
                 JOIN onewrite_sink s ON s.name = c.sink WHERE s.suspended_at IS NULL), 9223372036854775807)
             ORDER BY sequence LIMIT ?1",
        )
        .during("look for records to trim")?;
    let rows = settled
        .query_map([limit], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
        .during("look for records to trim")?;
    let last = rows
        .iter()
        .take_while(|(_, placed_at)| *placed_at < before.0)
        .last()
        .map(|(sequence, _)| *sequence);
    let Some(last) = last else {
        return forget_history(tx, history_before, limit).map(|_| 0);
    };
    execute(
        tx,
        "INSERT OR IGNORE INTO onewrite_history (sequence, partition, placed_at, time, id, type, key, correlation_id, causation_id)
         SELECT sequence, partition, placed_at, time, id, type, key, correlation_id, causation_id FROM onewrite_outbox WHERE sequence <= ?1",
        [last],
    )?;
    if !sabotage.has(Defect::ReuseSequence) {
        execute(
            tx,
            "INSERT INTO onewrite_trimmed (partition, sequence)
             SELECT partition, max(sequence) FROM onewrite_outbox WHERE sequence <= ?1 GROUP BY partition
             ON CONFLICT (partition) DO UPDATE SET sequence = excluded.sequence",
            [last],
        )?;
    }
    let deleted = execute(tx, "DELETE FROM onewrite_outbox WHERE sequence <= ?1", [last])?;
    if sabotage.has(Defect::ReuseSequence) {
        execute(
            tx,
            "UPDATE sqlite_sequence SET seq = 0 WHERE name = 'onewrite_outbox' AND NOT EXISTS (SELECT 1 FROM onewrite_outbox)",
            [],
        )?;
    }
    forget_history(tx, history_before, limit)?;
    Ok(deleted)
}

fn forget_history(tx: &Connection, before: Timestamp, limit: u32) -> Result<u64> {
    execute(
        tx,
        "DELETE FROM onewrite_history WHERE sequence IN (
             SELECT sequence FROM onewrite_history ORDER BY sequence LIMIT ?2) AND placed_at < ?1",
        params![before.0, limit],
    )
}

/// Registers a sink and its cursors, unless they exist.
pub(crate) fn subscribe(
    tx: &Connection,
    sink: &str,
    from: Sequence,
    partitions: u16,
) -> Result<u64> {
    execute(
        tx,
        "INSERT OR IGNORE INTO onewrite_sink (name, created_at) VALUES (?1, ?2)",
        params![sink, now().0],
    )?;
    execute(
        tx,
        "WITH RECURSIVE every(partition) AS (SELECT 0 UNION ALL SELECT partition + 1 FROM every WHERE partition + 1 < ?3)
         INSERT OR IGNORE INTO onewrite_cursor (sink, partition, sequence, chain) SELECT ?1, partition, ?2, 0 FROM every",
        params![sink, from.cast_signed(), partitions],
    )
}

/// Suspends a sink, or lets it go on, at once.
pub(crate) fn suspend(tx: &Connection, sink: &str, reason: Option<&str>) -> Result<u64> {
    if reason.is_none() {
        execute(tx, "UPDATE onewrite_cursor SET retry_at = NULL WHERE sink = ?1", params![sink])?;
    }
    execute(
        tx,
        "UPDATE onewrite_sink SET suspended_at = CASE WHEN ?2 IS NULL THEN NULL ELSE coalesce(suspended_at, ?3) END, suspended_reason = ?2 WHERE name = ?1",
        params![sink, reason, now().0],
    )
}

/// Every sink with what it has not settled.
pub(crate) fn sinks(connection: &Connection) -> Result<Vec<SinkState>> {
    let mut statement = connection
        .prepare_cached(
            "SELECT name, suspended_at, suspended_reason, (SELECT min(sequence) FROM onewrite_cursor WHERE sink = name)
             FROM onewrite_sink ORDER BY name",
        )
        .during("list the sinks")?;
    let rows = statement
        .query_map([], |row| {
            let since: Option<i64> = row.get(1)?;
            let reason: Option<String> = row.get(2)?;
            Ok(SinkState {
                name: row.get::<_, String>(0)?.into(),
                suspended: since
                    .map(|since| (Timestamp(since), Text::from(reason.unwrap_or_default()))),
                sequence: row.get::<_, Option<i64>>(3)?.unwrap_or(0).cast_unsigned(),
                behind: 0,
                bytes_behind: 0,
                oldest: None,
            })
        })
        .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
        .during("list the sinks")?;
    rows.into_iter().map(|sink| backlog(connection, sink)).collect()
}

/// Rows that are looked at to measure one sink's backlog: readers of the log wait for that.
const LOOK_MAX: u64 = 5_000;

/// Counted exactly while it is short; what lies beyond the rows looked at is taken to be like those.
fn backlog(connection: &Connection, sink: SinkState) -> Result<SinkState> {
    let (looked, last, behind, bytes, oldest) = connection
        .prepare_cached(
            "SELECT count(*), coalesce(max(o.sequence), 0),
                    count(*) FILTER (WHERE o.sequence > c.sequence),
                    coalesce(sum(bytes) FILTER (WHERE o.sequence > c.sequence), 0),
                    min(placed_at) FILTER (WHERE o.sequence > c.sequence)
             FROM (SELECT sequence, partition, placed_at, length(payload) AS bytes FROM onewrite_outbox
                   WHERE sequence > ?2 ORDER BY sequence LIMIT ?3) o
             CROSS JOIN onewrite_cursor c ON c.sink = ?1 AND c.partition = o.partition",
        )
        .and_then(|mut statement| {
            statement.query_row(
                params![&*sink.name, sink.sequence.cast_signed(), LOOK_MAX.cast_signed()],
                |row| {
                    let number = |index| row.get::<_, i64>(index).map(i64::cast_unsigned);
                    Ok((
                        number(0)?,
                        number(1)?,
                        number(2)?,
                        number(3)?,
                        row.get::<_, Option<i64>>(4)?,
                    ))
                },
            )
        })
        .during("measure a sink's backlog")?;
    let unseen = if looked < LOOK_MAX { 0 } else { schema::head(connection)?.saturating_sub(last) };
    Ok(SinkState {
        behind: behind + behind * unseen / looked.max(1),
        bytes_behind: bytes + bytes * unseen / looked.max(1),
        oldest: oldest.map(Timestamp),
        ..sink
    })
}

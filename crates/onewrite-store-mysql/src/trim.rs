//! Retention: what every live sink has settled leaves the log, and its story stays for a while.

use std::collections::BTreeMap;

use mysql_async::{Conn, prelude::Queryable};
use onewrite_core::{
    Partition, Result, Sequence, Timestamp,
    position::START,
    sabotage::{Defect, Sabotage},
    store::{From, SinkState},
};

use crate::{
    error::While,
    row::{self, binds, execute, now, query, query_one},
    schema,
};

/// Trims a stretch of settled records older than `before`, and history older than `history_before`. The log is
/// trimmed from its front, in the order of its sequence.
pub(crate) async fn trim(
    tx: &mut impl Queryable,
    before: Timestamp,
    history_before: Timestamp,
    limit: u32,
    sabotage: Sabotage,
) -> Result<u64> {
    if sabotage.has(Defect::NoRetention) {
        return Ok(0);
    }
    one_at_a_time(tx).await?;
    let settled = settled(tx).await?;
    let sql = "SELECT sequence, `partition`, placed_at FROM onewrite_log ORDER BY sequence LIMIT ?";
    let mut bounds: BTreeMap<Partition, Sequence> = BTreeMap::new();
    let (mut last, mut trimmed) = (None, 0);
    for mut found in query(tx, sql, binds![limit]).await? {
        let (sequence, partition) = (row::number(&mut found, 0)?, row::get(&mut found, 1)?);
        let placed_at = row::time(&mut found, 2)?.unwrap_or_default();
        let bound =
            settled.as_ref().map(|settled| settled.get(&partition).copied().unwrap_or(START));
        if placed_at >= before || bound.is_some_and(|bound| sequence > bound) {
            break;
        }
        bounds.insert(partition, sequence);
        (last, trimmed) = (Some(sequence), trimmed + 1);
    }
    if let Some(last) = last {
        delete(tx, &bounds, last).await?;
    }
    let forget = "DELETE FROM onewrite_history WHERE placed_at < ? ORDER BY sequence LIMIT ?";
    execute(tx, forget, binds![history_before.0, limit]).await?;
    Ok(trimmed)
}

/// Sweeps follow one another, and a new sink waits for one that does not know it yet: what that trims, the
/// sink must see.
async fn one_at_a_time(tx: &mut impl Queryable) -> Result<()> {
    query(tx, "SELECT 1 FROM onewrite_source FOR UPDATE", binds![]).await.map(drop)
}

/// For each partition, what all live sinks have settled; `None` when there is no live sink.
async fn settled(tx: &mut impl Queryable) -> Result<Option<BTreeMap<Partition, Sequence>>> {
    let live = "SELECT 1 FROM onewrite_sink WHERE suspended_at IS NULL LIMIT 1";
    if query_one(tx, live, binds![]).await?.is_none() {
        return Ok(None);
    }
    let sql = "SELECT c.`partition`, MIN(c.sequence) FROM onewrite_cursor c JOIN onewrite_sink s ON s.name = c.sink
         WHERE s.suspended_at IS NULL GROUP BY c.`partition`";
    let rows = query(tx, sql, binds![]).await?;
    let bound = |mut found| Ok((row::get(&mut found, 0)?, row::number(&mut found, 1)?));
    rows.into_iter().map(bound).collect::<Result<_>>().map(Some)
}

async fn delete(
    tx: &mut impl Queryable,
    bounds: &BTreeMap<Partition, Sequence>,
    last: Sequence,
) -> Result<()> {
    let last = last.cast_signed();
    let keep = "INSERT IGNORE INTO onewrite_history (sequence, `partition`, placed_at, time, id, type, `key`, correlation_id, causation_id)
         SELECT sequence, `partition`, placed_at, time, id, type, `key`, correlation_id, causation_id FROM onewrite_log WHERE sequence <= ?";
    execute(tx, keep, binds![last]).await?;
    let values: Vec<String> =
        bounds.iter().map(|(partition, sequence)| format!("({partition},{sequence})")).collect();
    let sql = format!(
        "INSERT INTO onewrite_trimmed (`partition`, sequence) VALUES {} ON DUPLICATE KEY UPDATE sequence = VALUES(sequence);
         DELETE FROM onewrite_log WHERE sequence <= {last}",
        values.join(",")
    );
    tx.query_drop(sql).await.during("trim the log")
}

/// Registers a sink and its cursors, unless they exist.
pub(crate) async fn subscribe(
    tx: &mut impl Queryable,
    sink: &str,
    from: From,
    partitions: u16,
) -> Result<u64> {
    let cursors = query(tx, "SELECT 1 FROM onewrite_cursor WHERE sink = ?", binds![sink]).await?;
    if cursors.len() == usize::from(partitions) {
        return Ok(0);
    }
    one_at_a_time(tx).await?;
    let sql = concat!(
        "INSERT INTO onewrite_sink (name, created_at) VALUES (?, ",
        now!(),
        ") ON DUPLICATE KEY UPDATE name = name"
    );
    execute(tx, sql, binds![sink]).await?;
    let start = start(tx, from).await?.cast_signed();
    let rows: Vec<String> = (0..partitions)
        .map(|partition| format!("({},{partition},{start},0)", row::quoted(sink)))
        .collect();
    let sql = format!(
        "INSERT INTO onewrite_cursor (sink, `partition`, sequence, chain) VALUES {} ON DUPLICATE KEY UPDATE sink = sink",
        rows.join(",")
    );
    tx.query_drop(sql).await.during("make the sink's cursors")?;
    Ok(u64::from(partitions) - cursors.len() as u64)
}

/// The sequence behind which a new sink starts. What was committed before is placed already.
async fn start(tx: &mut impl Queryable, from: From) -> Result<Sequence> {
    let highest = async |tx: &mut _, sql: &str, binds| -> Result<Option<i64>> {
        query_one(tx, sql, binds).await?.map_or(Ok(None), |mut found| row::get(&mut found, 0))
    };
    match from {
        From::Now => schema::head(tx).await,
        // The log is trimmed from its front: nothing up to the highest one deleted is left.
        From::Beginning => {
            let sql = "SELECT MAX(sequence) FROM onewrite_trimmed";
            Ok(highest(tx, sql, binds![]).await?.map_or(START, i64::cast_unsigned))
        }
        From::Time(time) => {
            let sql = "SELECT MIN(sequence) - 1 FROM onewrite_log WHERE placed_at >= ?";
            match highest(tx, sql, binds![time.0]).await? {
                Some(before) => Ok(before.cast_unsigned()),
                None => schema::head(tx).await,
            }
        }
    }
}

/// Suspends a sink, or lets it go on, at once.
pub(crate) async fn suspend(
    tx: &mut impl Queryable,
    sink: &str,
    reason: Option<&str>,
) -> Result<u64> {
    if reason.is_none() {
        // As for a new sink.
        one_at_a_time(tx).await?;
        execute(tx, "UPDATE onewrite_cursor SET retry_at = NULL WHERE sink = ?", binds![sink])
            .await?;
    }
    let sql = concat!(
        "UPDATE onewrite_sink SET suspended_reason = ?, suspended_at = CASE WHEN ? IS NULL THEN NULL ELSE COALESCE(suspended_at, ",
        now!(),
        ") END WHERE name = ?"
    );
    execute(tx, sql, binds![reason, reason, sink]).await
}

/// Every sink with what it has not settled.
pub(crate) async fn sinks(conn: &mut Conn) -> Result<Vec<SinkState>> {
    let sql = "SELECT name, suspended_at, suspended_reason, (SELECT MIN(sequence) FROM onewrite_cursor WHERE sink = name)
         FROM onewrite_sink ORDER BY name";
    let mut sinks = Vec::new();
    for mut found in query(conn, sql, binds![]).await? {
        let reason = row::option(&mut found, 2)?.unwrap_or_default();
        let sink = SinkState {
            name: row::text(&mut found, 0)?,
            suspended: row::time(&mut found, 1)?.map(|since| (since, reason)),
            sequence: row::get::<Option<i64>>(&mut found, 3)?.unwrap_or(0).cast_unsigned(),
            behind: 0,
            bytes_behind: 0,
            oldest: None,
        };
        sinks.push(backlog(conn, sink).await?);
    }
    Ok(sinks)
}

/// Rows that are looked at to measure one sink's backlog.
const LOOK_MAX: u64 = 5_000;

/// Counted exactly while it is short; what lies beyond the rows looked at is taken to be like those.
async fn backlog(conn: &mut Conn, sink: SinkState) -> Result<SinkState> {
    let sql = "SELECT COUNT(*), COALESCE(MAX(o.sequence), 0), COALESCE(SUM(waits), 0), CAST(COALESCE(SUM(IF(waits, bytes, 0)), 0) AS SIGNED),
            MIN(IF(waits, placed_at, NULL))
        FROM (SELECT l.sequence, l.placed_at, l.bytes, l.sequence > c.sequence AS waits
              FROM (SELECT sequence, `partition`, placed_at, COALESCE(LENGTH(payload), 0) AS bytes FROM onewrite_log
                    WHERE sequence > ? ORDER BY sequence LIMIT ?) l
              JOIN onewrite_cursor c ON c.sink = ? AND c.`partition` = l.`partition`) o";
    let binds = binds![sink.sequence.cast_signed(), LOOK_MAX, &*sink.name];
    let Some(mut found) = query_one(conn, sql, binds).await? else { return Ok(sink) };
    let mut number = |index| row::number(&mut found, index);
    let (looked, last, behind, bytes) = (number(0)?, number(1)?, number(2)?, number(3)?);
    let unseen = if looked < LOOK_MAX { 0 } else { schema::head(conn).await?.saturating_sub(last) };
    Ok(SinkState {
        behind: behind + behind * unseen / looked.max(1),
        bytes_behind: bytes + bytes * unseen / looked.max(1),
        oldest: row::time(&mut found, 4)?,
        ..sink
    })
}

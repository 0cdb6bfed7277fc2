//! Retention: what every live sink has settled leaves the log, and its story stays for a while.
//!
//! A record is trimmed by moving its partition's bound past it; a segment whose records are all trimmed
//! is emptied as a whole. That leaves no dead rows, whoever holds an old snapshot.

use std::collections::BTreeMap;

use deadpool_postgres::{Client, Transaction};
use onewrite_core::{
    Partition, Result, Sequence, Timestamp,
    position::START,
    sabotage::{Defect, Sabotage},
    store::{From, SinkState},
};

use crate::{
    commit::execute,
    error::While,
    read::Horizon,
    row::{self, Time},
    schema,
};

/// A segment gives way to the next after so many numbers, whatever their age.
const SEGMENT_MAX: i64 = 2_000_000;

/// Of the next records: whether each may go, and whether it is still there. What all live sinks have settled
/// (`settled`), and what is trimmed (`gone`), is looked up once for all: with rows for each record the
/// planner takes the small tables for empty.
const SWEEP: &str = "WITH partitions AS (
        SELECT p FROM generate_series(0, (SELECT partitions FROM onewrite.source) - 1) p
    ), bounds AS MATERIALIZED (
        SELECT array_agg(coalesce(c.settled, CASE WHEN l.any THEN 0 ELSE 9223372036854775807 END) ORDER BY p) AS settled,
            array_agg(coalesce(t.sequence, 0) ORDER BY p) AS gone
        FROM partitions
        CROSS JOIN (SELECT EXISTS (SELECT FROM onewrite.sink WHERE suspended_at IS NULL) AS any) l
        LEFT JOIN (SELECT partition, min(sequence) AS settled FROM onewrite.cursor
                   WHERE sink IN (SELECT name FROM onewrite.sink WHERE suspended_at IS NULL) GROUP BY partition) c
            ON c.partition = p
        LEFT JOIN onewrite.trimmed t ON t.partition = p
    )
    SELECT l.sequence, l.partition, l.placed_at < $2 AND l.sequence <= ((SELECT settled FROM bounds))[l.partition + 1],
        l.sequence > ((SELECT gone FROM bounds))[l.partition + 1]
    FROM (SELECT sequence, partition, placed_at FROM onewrite.log WHERE sequence > $1 ORDER BY sequence LIMIT $3) l
    ORDER BY l.sequence";

/// Trims a stretch of settled records older than `before`, and history older than `history_before`.
pub(crate) async fn trim(
    tx: &Transaction<'_>,
    before: Timestamp,
    history_before: Timestamp,
    limit: u32,
    sabotage: Sabotage,
) -> Result<u64> {
    if sabotage.has(Defect::NoRetention) {
        return Ok(0);
    }
    let swept = swept(tx).await?;
    let rows = query(tx, SWEEP, &[&swept, &Time(before), &i64::from(limit)]).await?;
    let mut last = None;
    let mut bounds: BTreeMap<Partition, Sequence> = BTreeMap::new();
    let mut trimmed = Vec::new();
    for found in rows.iter().take_while(|found| found.get::<_, bool>(2)) {
        let sequence: i64 = found.get(0);
        last = Some(sequence);
        if found.get::<_, bool>(3) {
            trimmed.push(sequence);
            bounds.insert(row::partition(found, 1)?, sequence.cast_unsigned());
        }
    }
    if let Some(last) = last {
        move_bounds(tx, &bounds, &trimmed, last).await?;
    }
    forget_history(tx, history_before, limit).await?;
    rotate(tx, before).await?;
    let trimmed = trimmed.len() as u64;
    // A sweep that found its fill is followed by another at once.
    if trimmed < u64::from(limit) {
        empty_segments(tx).await?;
        if !sabotage.has(Defect::NoRewrite) {
            empty_outbox(tx).await?;
            rewrite_small(tx).await?;
        }
    }
    Ok(trimmed)
}

async fn swept(tx: &Transaction<'_>) -> Result<i64> {
    // One sweep at a time: the others wait here and go on behind it.
    let found = query(tx, "SELECT swept FROM onewrite.sweep FOR UPDATE", &[]).await?;
    Ok(found.first().map_or(0, |found| found.get(0)))
}

async fn move_bounds(
    tx: &Transaction<'_>,
    bounds: &BTreeMap<Partition, Sequence>,
    trimmed: &[i64],
    last: i64,
) -> Result<()> {
    execute(
        tx,
        "INSERT INTO onewrite.history (sequence, partition, placed_at, time, id, type, key, correlation_id, causation_id)
         SELECT sequence, partition, placed_at, time, id, type, key, correlation_id, causation_id FROM onewrite.log
         WHERE sequence = ANY ($1) ON CONFLICT DO NOTHING",
        &[&trimmed],
    )
    .await?;
    let (partitions, sequences): (Vec<i32>, Vec<i64>) =
        bounds.iter().map(|(p, s)| (i32::from(*p), s.cast_signed())).unzip();
    execute(
        tx,
        "INSERT INTO onewrite.trimmed (partition, sequence) SELECT * FROM unnest($1::int4[], $2::int8[])
         ON CONFLICT (partition) DO UPDATE SET sequence = excluded.sequence",
        &[&partitions, &sequences],
    )
    .await?;
    execute(tx, "UPDATE onewrite.sweep SET swept = $1", &[&last]).await.map(|_| ())
}

async fn forget_history(tx: &Transaction<'_>, before: Timestamp, limit: u32) -> Result<()> {
    let old = query(
        tx,
        "SELECT max(sequence) FROM (SELECT sequence, placed_at FROM onewrite.history
             WHERE sequence > (SELECT forgotten FROM onewrite.sweep) ORDER BY sequence LIMIT $2) h WHERE placed_at < $1",
        &[&Time(before), &i64::from(limit)],
    )
    .await?;
    let Some(last) = old.first().and_then(|found| found.get::<_, Option<i64>>(0)) else {
        return Ok(());
    };
    execute(
        tx,
        "DELETE FROM onewrite.history WHERE sequence > (SELECT forgotten FROM onewrite.sweep) AND sequence <= $1",
        &[&last],
    )
    .await?;
    execute(tx, "UPDATE onewrite.sweep SET forgotten = $1", &[&last]).await.map(|_| ())
}

/// Lets new records go to the next segment, once this one is old or large enough and the next is empty.
async fn rotate(tx: &Transaction<'_>, before: Timestamp) -> Result<()> {
    let found = query(
        tx,
        "SELECT segment, clock_timestamp() - segment_since > (clock_timestamp() - $1) / 4
                AND sequence.last_value > segment_first
                OR sequence.last_value - segment_first > $2
         FROM onewrite.source, onewrite.sequence",
        &[&Time(before), &SEGMENT_MAX],
    )
    .await?;
    let Some(found) = found.first().filter(|found| found.get::<_, bool>(1)) else { return Ok(()) };
    let next = (found.get::<_, i16>(0) + 1) % SEGMENTS;
    let used = query(tx, "SELECT 1 FROM onewrite.log WHERE segment = $1 LIMIT 1", &[&next]).await?;
    if used.is_empty() {
        execute(
            tx,
            "UPDATE onewrite.source SET segment = $1, segment_since = clock_timestamp(),
                 segment_first = (SELECT last_value FROM onewrite.sequence)",
            &[&next],
        )
        .await?;
    }
    Ok(())
}

/// How many segments take turns, as the first migration made them.
const SEGMENTS: i16 = 8;

/// Empties segments that hold only trimmed records. Whoever still writes to one, or reads it for long (a
/// dump), is not waited for: the next sweep tries again.
async fn empty_segments(tx: &Transaction<'_>) -> Result<()> {
    let found = query(tx, "SELECT segment FROM onewrite.source", &[]).await?;
    let current = found.first().map_or(0, |found| found.get::<_, i16>(0));
    for segment in (0..SEGMENTS).filter(|segment| *segment != current) {
        if !is_trimmed(tx, segment).await? {
            continue;
        }
        let table = format!("onewrite.log_{segment}");
        // Looked at again under the lock: a transaction may have placed a record there meanwhile.
        let may_go = lock_briefly(tx, &table).await && is_trimmed(tx, segment).await?;
        truncate(tx, &table, may_go).await?;
    }
    Ok(())
}

/// The outbox with its indexes is emptied when it takes more.
const OUTBOX_BYTES_MAX: i64 = 32 << 20;

/// Rows leave the outbox with their transaction, and dead ones stay as long as somebody holds an old
/// snapshot. It goes as segments do.
async fn empty_outbox(tx: &Transaction<'_>) -> Result<()> {
    let table = "onewrite.outbox";
    let found = query(tx, "SELECT pg_total_relation_size('onewrite.outbox')", &[]).await?;
    if found.first().is_none_or(|found| found.get::<_, i64>(0) <= OUTBOX_BYTES_MAX) {
        return Ok(());
    }
    let may_go = lock_briefly(tx, table).await
        && query(tx, "SELECT 1 FROM onewrite.outbox LIMIT 1", &[]).await?.is_empty();
    truncate(tx, table, may_go).await
}

/// What the tables whose rows are written again and again may take, each.
const SMALL_BYTES_MAX: i64 = 8 << 20;

/// Writes them anew when they take more: see `onewrite.rewrite`.
async fn rewrite_small(tx: &Transaction<'_>) -> Result<()> {
    let sql = "SELECT onewrite.rewrite(name, $1) FROM unnest(ARRAY['cursor', 'lease']) name";
    query(tx, sql, &[&SMALL_BYTES_MAX]).await.map(drop)
}

/// Begins a savepoint and locks a table in it, if nobody uses it for long. Says whether it is locked.
async fn lock_briefly(tx: &Transaction<'_>, table: &str) -> bool {
    let lock = format!(
        "SAVEPOINT emptying; SET LOCAL lock_timeout = '50ms'; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"
    );
    tx.batch_execute(&lock).await.is_ok()
}

/// Ends what [`lock_briefly`] began: the table is emptied, or nothing has happened.
async fn truncate(tx: &Transaction<'_>, table: &str, may_go: bool) -> Result<()> {
    let act = if may_go { format!("TRUNCATE {table};") } else { "ROLLBACK TO emptying;".into() };
    tx.batch_execute(&format!("{act} RELEASE emptying; SET LOCAL lock_timeout = '10s'"))
        .await
        .during("empty a table of the log")
}

/// Whether a segment holds records, and all of them are trimmed. One that is not, though the sweep has
/// passed it (it was committed late), makes the sweep go back.
async fn is_trimmed(tx: &Transaction<'_>, segment: i16) -> Result<bool> {
    let any =
        query(tx, "SELECT 1 FROM onewrite.log WHERE segment = $1 LIMIT 1", &[&segment]).await?;
    if any.is_empty() {
        return Ok(false);
    }
    let left = query(
        tx,
        "SELECT min(l.first) FROM (
             SELECT (SELECT min(sequence) FROM onewrite.log l WHERE l.segment = $1 AND l.partition = p AND l.sequence > coalesce(t.sequence, 0)) AS first
             FROM generate_series(0, (SELECT partitions FROM onewrite.source) - 1) p
             LEFT JOIN onewrite.trimmed t ON t.partition = p) l",
        &[&segment],
    )
    .await?;
    let Some(first) = left.first().and_then(|found| found.get::<_, Option<i64>>(0)) else {
        return Ok(true);
    };
    let back = "UPDATE onewrite.sweep SET swept = $1::int8 - 1, forgotten = least(forgotten, $1 - 1) WHERE swept >= $1";
    execute(tx, back, &[&first]).await?;
    Ok(false)
}

/// Registers a sink and its cursors, unless they exist.
pub(crate) async fn subscribe(
    tx: &Transaction<'_>,
    sink: &str,
    from: From,
    partitions: u16,
) -> Result<u64> {
    // A sweep that runs does not know this sink yet: what it trims, this one must see.
    swept(tx).await?;
    let known = query(tx, "SELECT 1 FROM onewrite.sink WHERE name = $1", &[&sink]).await?;
    let count = i64::from(partitions);
    let cursors =
        query(tx, "SELECT count(*) FROM onewrite.cursor WHERE sink = $1", &[&sink]).await?;
    if !known.is_empty() && cursors.first().is_some_and(|found| found.get::<_, i64>(0) == count) {
        return Ok(0);
    }
    // A known sink whose cursors are gone (see `onewrite.rewrite`) may have settled nothing.
    let from = if known.is_empty() { from } else { From::Beginning };
    execute(tx, "INSERT INTO onewrite.sink (name) VALUES ($1) ON CONFLICT DO NOTHING", &[&sink])
        .await?;
    let starts = starts(tx, from, partitions).await?;
    execute(
        tx,
        "INSERT INTO onewrite.cursor (sink, partition, sequence, chain)
         SELECT $1, (s.n - 1)::integer, s.start, 0 FROM unnest($2::int8[]) WITH ORDINALITY AS s (start, n)
         ON CONFLICT DO NOTHING",
        &[&sink, &starts],
    )
    .await
}

/// For each partition, the sequence behind which a new sink starts.
async fn starts(tx: &Transaction<'_>, from: From, partitions: u16) -> Result<Vec<i64>> {
    // The end is looked at first: what is found afterwards only lies before it.
    let mut starts = match from {
        From::Beginning => vec![START.cast_signed(); usize::from(partitions)],
        From::Now | From::Time(_) => ends(tx, partitions).await?,
    };
    let known = match from {
        From::Beginning => {
            query(tx, "SELECT partition, sequence FROM onewrite.trimmed", &[]).await?
        }
        From::Now => Vec::new(),
        From::Time(time) => {
            let first = "SELECT l.partition, min(l.sequence) - 1 FROM onewrite.log l
                 LEFT JOIN onewrite.trimmed t ON t.partition = l.partition
                 WHERE l.placed_at >= $1 AND l.sequence > coalesce(t.sequence, 0) GROUP BY l.partition";
            query(tx, first, &[&Time(time)]).await?
        }
    };
    for found in &known {
        if let Some(start) = starts.get_mut(usize::from(row::partition(found, 0)?)) {
            *start = found.get(1);
        }
    }
    Ok(starts)
}

/// For each partition, where its log ends now: what a running transaction has drawn is still to come.
async fn ends(tx: &Transaction<'_>, partitions: u16) -> Result<Vec<i64>> {
    let found = query(tx, "SELECT head, busy FROM onewrite.horizon()", &[]).await?;
    let Some(now) = found.first().map(Horizon::of).transpose()? else { return Ok(Vec::new()) };
    let busy: Vec<i32> = now.busy.iter().map(|p| i32::from(*p)).collect();
    let last = query(
        tx,
        "SELECT p, greatest((SELECT max(sequence) FROM onewrite.log WHERE partition = p),
             (SELECT sequence FROM onewrite.trimmed WHERE partition = p), 0) FROM unnest($1::int4[]) p",
        &[&busy],
    )
    .await?;
    let mut ends = vec![now.head.cast_signed(); usize::from(partitions)];
    for found in &last {
        if let Some(end) = ends.get_mut(usize::from(row::partition(found, 0)?)) {
            *end = found.get(1);
        }
    }
    Ok(ends)
}

/// Suspends a sink, or lets it go on, at once.
pub(crate) async fn suspend(tx: &Transaction<'_>, sink: &str, reason: Option<&str>) -> Result<u64> {
    if reason.is_none() {
        // As for a new sink.
        swept(tx).await?;
        execute(tx, "UPDATE onewrite.cursor SET retry_at = NULL WHERE sink = $1", &[&sink]).await?;
    }
    execute(
        tx,
        "UPDATE onewrite.sink SET suspended_reason = $2,
             suspended_at = CASE WHEN $2::text IS NULL THEN NULL ELSE coalesce(suspended_at, clock_timestamp()) END
         WHERE name = $1",
        &[&sink, &reason],
    )
    .await
}

/// Every sink with what it has not settled.
pub(crate) async fn sinks(client: &Client) -> Result<Vec<SinkState>> {
    let rows = client
        .query(
            "SELECT name, suspended_at, suspended_reason, (SELECT min(sequence) FROM onewrite.cursor WHERE sink = name)
             FROM onewrite.sink ORDER BY name",
            &[],
        )
        .await
        .during("list the sinks")?;
    let mut sinks = Vec::new();
    for found in &rows {
        let reason = row::option(found, 2)?.unwrap_or_default();
        let sink = SinkState {
            name: row::text(found, 0)?,
            suspended: row::time(found, 1)?.map(|since| (since, reason)),
            sequence: found.get::<_, Option<i64>>(3).unwrap_or(0).cast_unsigned(),
            behind: 0,
            bytes_behind: 0,
            oldest: None,
        };
        sinks.push(backlog(client, sink).await?);
    }
    Ok(sinks)
}

/// Rows that are looked at to measure one sink's backlog.
const LOOK_MAX: i64 = 5_000;

/// Counted exactly while it is short; what lies beyond the rows looked at is taken to be like those.
async fn backlog(client: &Client, sink: SinkState) -> Result<SinkState> {
    let statement = client
        .prepare_cached(
            "WITH bounds AS MATERIALIZED (
                 SELECT array_agg(greatest(c.sequence, t.sequence) ORDER BY c.partition) AS settled
                 FROM onewrite.cursor c LEFT JOIN onewrite.trimmed t USING (partition) WHERE c.sink = $1
             )
             SELECT count(*), coalesce(max(o.sequence), 0), count(*) FILTER (WHERE waits),
                    coalesce(sum(bytes) FILTER (WHERE waits), 0)::int8, min(placed_at) FILTER (WHERE waits)
             FROM (SELECT l.sequence, l.placed_at, l.bytes, l.sequence > ((SELECT settled FROM bounds))[l.partition + 1] AS waits
                   FROM (SELECT sequence, partition, placed_at, coalesce(octet_length(payload), 0) AS bytes FROM onewrite.log
                         WHERE sequence > $2 ORDER BY sequence LIMIT $3) l) o",
        )
        .await
        .during("measure a sink's backlog")?;
    let found = client
        .query_one(&statement, &[&&*sink.name, &sink.sequence.cast_signed(), &LOOK_MAX])
        .await
        .during("measure a sink's backlog")?;
    let number = |index| row::number(&found, index);
    let (looked, last) = (number(0)?, number(1)?);
    let (behind, bytes) = (number(2)?, number(3)?);
    let unseen = if looked < LOOK_MAX.cast_unsigned() {
        0
    } else {
        schema::head(client).await?.saturating_sub(last)
    };
    Ok(SinkState {
        behind: behind + behind * unseen / looked.max(1),
        bytes_behind: bytes + bytes * unseen / looked.max(1),
        oldest: row::time(&found, 4)?,
        ..sink
    })
}

pub(crate) async fn query(
    tx: &Transaction<'_>,
    sql: &str,
    binds: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<Vec<tokio_postgres::Row>> {
    let statement = tx.prepare_cached(sql).await.during("prepare a read")?;
    tx.query(&statement, binds).await.during("read")
}

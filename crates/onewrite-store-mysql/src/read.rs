//! Reading the log: a forward scan for the partitions that keep up, an index probe for each that lags.
//!
//! All partitions share one counter, so the log's own order interleaves them and one scan serves many. A page
//! is read in one snapshot and one round trip.

use std::collections::BTreeMap;

use mysql_async::{Conn, Row, prelude::Queryable};
use onewrite_core::{
    Partition, Record, Result, Sequence, Text,
    position::{START, Source},
    sabotage::{Defect, Sabotage},
    store::{Cursor, Page, Read},
};

use crate::{
    error::While,
    row::{self, binds, event_columns, query},
    schema,
};

/// Numbers one read looks through at most.
const WINDOW: u64 = 20_000;

/// Of the partitions asked for, this share may lag behind the scan; each costs a probe.
const LAGGARDS: usize = 8;

/// Reads a page, and the source as it is at that moment.
pub(crate) async fn page(
    conn: &mut Conn,
    partitions: u16,
    read: &Read,
    sabotage: Sabotage,
) -> Result<(Source, Page)> {
    let plan = Plan::of(read, partitions);
    let found = plan.run(conn, read, sabotage).await;
    if found.is_err() {
        // In the middle of the statements the snapshot may be open.
        let _ = conn.query_drop("ROLLBACK").await;
    }
    let mut found = found?;
    let page = plan.page(read, &mut found)?;
    Ok((found.source, page))
}

/// Who is read how.
struct Plan {
    after: BTreeMap<Partition, Sequence>,
    /// The scan begins behind this.
    from: Sequence,
    /// Partitions that stand before `from`.
    lagging: Vec<(Partition, Sequence)>,
    partitions: u16,
    /// Records that one probe may bring.
    share: usize,
}

struct Found {
    source: Source,
    head: Sequence,
    trimmed: Vec<(Partition, Sequence)>,
    scanned: Vec<Row>,
    probed: Vec<Row>,
}

impl Plan {
    fn of(read: &Read, partitions: u16) -> Self {
        let after: BTreeMap<Partition, Sequence> = read.after.iter().copied().collect();
        let mut bounds: Vec<Sequence> = after.values().copied().collect();
        bounds.sort_unstable();
        let from = bounds.get(bounds.len() / LAGGARDS).copied().unwrap_or(START);
        let lagging: Vec<_> =
            after.iter().map(|(p, a)| (*p, *a)).filter(|(_, a)| *a < from).collect();
        let share = (read.limit / lagging.len().max(1)).max(1);
        Self { after, from, lagging, partitions, share }
    }

    fn upto(&self) -> Sequence {
        self.from.saturating_add(WINDOW)
    }

    async fn run(&self, conn: &mut Conn, read: &Read, sabotage: Sabotage) -> Result<Found> {
        let kinds = kinds(read);
        let (from, upto, limit) = (self.from, self.upto(), read.limit);
        let by = if sabotage.has(Defect::OrderByTime) { "time" } else { "sequence" };
        let columns =
            concat!("SELECT sequence, `partition`, ", event_columns!(), " FROM onewrite_log");
        let bounds = self.bounds();
        let mut sql = format!(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY;
             {}; {}; SELECT sequence FROM onewrite_counter; SELECT `partition`, sequence FROM onewrite_trimmed;
             {columns} WHERE sequence > {from} AND sequence <= {upto}
                 AND sequence > CAST(ELT(`partition` + 1, {bounds}) AS SIGNED){kinds} ORDER BY {by} LIMIT {limit};",
            schema::SOURCE,
            schema::LIVES,
        );
        let share = self.share;
        let probes = self.lagging.iter().map(|(partition, after)| {
            format!("({columns} WHERE `partition` = {partition} AND sequence > {after}{kinds} ORDER BY sequence LIMIT {share})")
        });
        sql.push_str(&probes.collect::<Vec<_>>().join(" UNION ALL "));
        sql.push_str(if self.lagging.is_empty() { "COMMIT" } else { "; COMMIT" });
        let sets = sets(conn, sql).await?;
        // The two statements that begin the snapshot bring nothing.
        let mut sets = sets.into_iter().skip(2);
        let mut next = || sets.next().unwrap_or_default();
        let source = schema::source_of(next(), next())?;
        let head = next().first_mut().map_or(Ok(START), |found| row::number(found, 0))?;
        let trimmed = trimmed_of(next())?;
        Ok(Found { source, head, trimmed, scanned: next(), probed: next() })
    }

    /// For each partition, in order, the sequence to scan behind; those that are not scanned have none that
    /// a record could pass.
    fn bounds(&self) -> String {
        let bound = |partition: Partition| {
            let after = self.after.get(&partition).filter(|after| **after >= self.from);
            after.map_or(i64::MAX, |after| after.cast_signed()).to_string()
        };
        (0..self.partitions).map(bound).collect::<Vec<_>>().join(",")
    }

    /// Records in order, and for each partition how far it was looked through.
    fn page(&self, read: &Read, found: &mut Found) -> Result<Page> {
        let mut take = Take { source: &found.source, read, page: Page::default(), bytes: 0 };
        let full = found.scanned.len() >= read.limit;
        let mut reached = self.upto().min(found.head);
        let mut counts: BTreeMap<Partition, usize> = BTreeMap::new();
        let mut cut = Vec::new();
        for record in &mut found.probed {
            let (sequence, partition) = (row::number(record, 0)?, row::get(record, 1)?);
            *counts.entry(partition).or_default() += 1;
            if cut.contains(&partition) || !take.record((partition, sequence), record)? {
                cut.push(partition);
            }
        }
        let mut ended = full;
        for record in &mut found.scanned {
            let (sequence, partition) = (row::number(record, 0)?, row::get(record, 1)?);
            if !take.record((partition, sequence), record)? {
                (reached, ended) = (sequence.saturating_sub(1), true);
                break;
            }
            if full {
                reached = sequence;
            }
        }
        let mut page = take.page;
        page.more = ended || found.head > self.upto() || !cut.is_empty();
        let mut last: BTreeMap<Partition, Sequence> = BTreeMap::new();
        for record in &page.records {
            let seen = last.entry(record.partition).or_insert(START);
            *seen = record.sequence.max(*seen);
        }
        for (partition, after) in &self.after {
            let seen = last.get(partition).copied().unwrap_or(START);
            let lags = *after < self.from;
            let whole = counts.get(partition).copied().unwrap_or(0) < self.share
                && !cut.contains(partition);
            let bound = match (lags, whole) {
                (false, _) => reached,
                (true, true) => found.head,
                (true, false) => START,
            };
            page.more |= lags && !whole;
            let upto = seen.max(bound);
            if upto > *after {
                page.upto.push((*partition, upto));
            }
        }
        let behind = |(partition, last): &&(Partition, Sequence)| {
            self.after.get(partition).is_some_and(|after| after < last)
        };
        page.trimmed = found.trimmed.iter().filter(behind).copied().collect();
        Ok(page)
    }
}

/// What each of several statements brings.
async fn sets(conn: &mut Conn, sql: String) -> Result<Vec<Vec<Row>>> {
    let mut results = conn.query_iter(sql).await.during("read the log")?;
    let mut sets = Vec::new();
    while !results.is_empty() {
        sets.push(results.collect().await.during("read the log")?);
    }
    results.drop_result().await.during("read the log")?;
    Ok(sets)
}

/// The condition on the event's type.
fn kinds(read: &Read) -> String {
    if read.kinds.is_empty() {
        return String::new();
    }
    let kinds: Vec<String> = read.kinds.iter().map(|kind| row::quoted(kind)).collect();
    format!(" AND type IN ({})", kinds.join(","))
}

struct Take<'a> {
    source: &'a Source,
    read: &'a Read,
    page: Page,
    bytes: usize,
}

impl Take<'_> {
    /// Takes a record while there is room.
    fn record(
        &mut self,
        (partition, sequence): (Partition, Sequence),
        found: &mut Row,
    ) -> Result<bool> {
        if self.page.records.len() >= self.read.limit {
            return Ok(false);
        }
        let event = row::event(found, 2)?;
        self.bytes += event.size();
        if self.bytes > self.read.bytes_max && !self.page.records.is_empty() {
            return Ok(false);
        }
        self.page.records.push(Record {
            source: self.source.name.clone(),
            incarnation: self.source.incarnation_at(sequence),
            partition,
            sequence,
            event,
        });
        Ok(true)
    }
}

pub(crate) async fn cursors(conn: &mut Conn, sink: &str) -> Result<Vec<Cursor>> {
    let rows = query(
        conn,
        "SELECT `partition`, sequence, chain, attempts, retry_at, reason FROM onewrite_cursor WHERE sink = ? ORDER BY `partition`",
        binds![sink],
    )
    .await?;
    let keys =
        "SELECT `partition`, `key` FROM onewrite_parked_key WHERE scope = CONCAT('relay/', ?)";
    let mut parked: BTreeMap<Partition, Vec<Text>> = BTreeMap::new();
    for mut key in query(conn, keys, binds![sink]).await? {
        parked.entry(row::get(&mut key, 0)?).or_default().push(row::text(&mut key, 1)?);
    }
    let cursor = |mut found: Row| {
        let partition = row::get(&mut found, 0)?;
        Ok(Cursor {
            partition,
            sequence: row::number(&mut found, 1)?,
            chain: row::number(&mut found, 2)?,
            attempts: u32::try_from(row::number(&mut found, 3)?).unwrap_or(u32::MAX),
            retry_at: row::time(&mut found, 4)?,
            reason: row::option(&mut found, 5)?,
            parked: parked.remove(&partition).unwrap_or_default(),
        })
    };
    rows.into_iter().map(cursor).collect()
}

pub(crate) async fn id_at(conn: &mut Conn, sequence: Sequence) -> Result<Option<Text>> {
    let sequence = sequence.cast_signed();
    let found = row::query_one(
        conn,
        "SELECT id FROM onewrite_log WHERE sequence = ? UNION ALL SELECT id FROM onewrite_history WHERE sequence = ? LIMIT 1",
        binds![sequence, sequence],
    );
    found.await?.map(|mut found| row::text(&mut found, 0)).transpose()
}

/// For each partition that was trimmed, the highest sequence deleted from it.
pub(crate) async fn trimmed(conn: &mut Conn) -> Result<Vec<(Partition, Sequence)>> {
    trimmed_of(query(conn, "SELECT `partition`, sequence FROM onewrite_trimmed", binds![]).await?)
}

fn trimmed_of(rows: Vec<Row>) -> Result<Vec<(Partition, Sequence)>> {
    rows.into_iter()
        .map(|mut found| Ok((row::get(&mut found, 0)?, row::number(&mut found, 1)?)))
        .collect()
}

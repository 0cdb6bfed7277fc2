//! Reading the log: a forward scan for the partitions that keep up, an index probe for each that lags.
//!
//! All partitions share one counter, so the log's own order interleaves them and one scan serves many.
//! A number may still be missing while its transaction runs; it is in a partition whose lock that
//! transaction holds, and only there nothing is looked through beyond what was seen. So neither a long
//! transaction elsewhere nor the age of anything plays a part.

use std::collections::{BTreeMap, BTreeSet};

use deadpool_postgres::Client;
use futures::future;
use onewrite_core::{
    Partition, Record, Result, Sequence, Text,
    position::{START, Source},
    sabotage::{Defect, Sabotage},
    store::{Cursor, Page, Read},
};
use tokio_postgres::{Row, types::ToSql};

use crate::{
    error::While,
    row::{self, Arena, event_columns},
    schema,
};

/// Numbers one read looks through at most.
const WINDOW: u64 = 100_000;

/// Of the partitions asked for, this share may lag behind the scan; each costs a probe.
const LAGGARDS: usize = 8;

const SCAN: &str = concat!(
    "SELECT sequence, partition, ",
    event_columns!(),
    " FROM onewrite.log WHERE sequence > $1 AND sequence <= $2 AND sequence > ($3::int8[])[partition + 1]
      AND ($4::text[] IS NULL OR type = ANY ($4)) ORDER BY sequence LIMIT $5"
);
const PROBE: &str = concat!(
    "SELECT sequence, partition, ",
    event_columns!(),
    " FROM unnest($1::int4[], $2::int8[]) AS w (wanted, after) CROSS JOIN LATERAL (
          SELECT * FROM onewrite.log l WHERE l.partition = w.wanted AND l.sequence > w.after AND l.sequence <= $3
              AND ($4::text[] IS NULL OR l.type = ANY ($4)) ORDER BY l.sequence LIMIT $5) found"
);
/// What is behind the records: how many lives there are, and what was trimmed.
const BEHIND: &str = "SELECT -1, count(*) FROM onewrite.incarnation
     UNION ALL SELECT partition, sequence FROM onewrite.trimmed WHERE sequence > ($1::int8[])[partition + 1]";

/// What is decided: see `onewrite.horizon`.
pub(crate) struct Horizon {
    pub(crate) head: Sequence,
    pub(crate) busy: BTreeSet<Partition>,
}

impl Horizon {
    pub(crate) fn of(found: &Row) -> Result<Self> {
        let busy: Option<Vec<i32>> = found.try_get(1).during("read the log")?;
        let busy = busy.unwrap_or_default().into_iter().filter_map(|p| u16::try_from(p).ok());
        Ok(Self { head: row::number(found, 0)?, busy: busy.collect() })
    }
}

pub(crate) async fn horizon(client: &Client) -> Result<Horizon> {
    let statement = client
        .prepare_cached("SELECT head, busy FROM onewrite.horizon()")
        .await
        .during("read the log")?;
    Horizon::of(&client.query_one(&statement, &[]).await.during("read the log")?)
}

/// Reads a page. `known` is the source as the caller knows it, and is returned anew when it has changed.
pub(crate) async fn page(
    client: &Client,
    known: &Source,
    read: &Read,
    sabotage: Sabotage,
) -> Result<(Option<Source>, Page)> {
    if read.after.is_empty() {
        return Ok((None, Page::default()));
    }
    let mut gone = BTreeMap::new();
    loop {
        let now = horizon(client).await?;
        let plan = Plan::of(read, &gone, &now, known.partitions);
        let found = plan.run(client, read, &now, sabotage).await?;
        if found.gone != gone {
            gone = found.gone;
            continue;
        }
        // A life is committed no later than its first record: looked up after the records, it is known.
        let changed = found.lives != known.incarnations.len() as u64;
        let source = if changed { Some(schema::source(client).await?) } else { None };
        let mut page = plan.page(source.as_ref().unwrap_or(known), read, &now, &found)?;
        page.trimmed = gone.into_iter().collect();
        return Ok((source, page));
    }
}

/// An array with a bound for each partition; those not asked for have none that a record could pass.
fn by_partition(after: impl Iterator<Item = (Partition, Sequence)>, partitions: u16) -> Vec<i64> {
    let mut bounds = vec![i64::MAX; usize::from(partitions)];
    for (partition, after) in after {
        if let Some(bound) = bounds.get_mut(usize::from(partition)) {
            *bound = after.cast_signed();
        }
    }
    bounds
}

/// Who is read how.
struct Plan {
    /// What is not trimmed begins behind this, for each partition asked for.
    after: BTreeMap<Partition, Sequence>,
    /// The scan begins behind this.
    from: Sequence,
    /// Partitions that stand before `from`.
    lagging: Vec<(Partition, Sequence)>,
    partitions: u16,
}

struct Found {
    scanned: Vec<Row>,
    probed: Vec<Row>,
    /// How many lives there are, counted after the records were read.
    lives: u64,
    /// What was trimmed behind the positions asked for, looked up after the records: what is missing
    /// among them was trimmed before.
    gone: BTreeMap<Partition, Sequence>,
    /// The scan looked no further than this.
    upto: Sequence,
    /// Records that one probe may bring.
    share: usize,
}

impl Plan {
    fn of(
        read: &Read,
        gone: &BTreeMap<Partition, Sequence>,
        now: &Horizon,
        partitions: u16,
    ) -> Self {
        let after: BTreeMap<Partition, Sequence> = read
            .after
            .iter()
            .map(|(partition, after)| {
                (*partition, gone.get(partition).copied().unwrap_or(START).max(*after))
            })
            .collect();
        // Busy partitions stand still for as long as a transaction runs: they must not hold the scan.
        let moving = |partition: &Partition| !now.busy.contains(partition);
        let mut bounds: Vec<Sequence> =
            after.iter().filter(|(partition, _)| moving(partition)).map(|(_, a)| *a).collect();
        bounds.sort_unstable();
        // Should none move, all are probed.
        let from = bounds.get(bounds.len() / LAGGARDS).copied().unwrap_or(now.head + 1);
        let lagging = after.iter().map(|(p, a)| (*p, *a)).filter(|(_, a)| *a < from).collect();
        Self { after, from, lagging, partitions }
    }

    async fn run(
        &self,
        client: &Client,
        read: &Read,
        now: &Horizon,
        sabotage: Sabotage,
    ) -> Result<Found> {
        // What is above the head belongs to the next page: its partition's lock was not looked at.
        let upto = now.head.max(self.from).min(self.from + WINDOW);
        let kinds: Option<Vec<&str>> =
            (!read.kinds.is_empty()).then(|| read.kinds.iter().map(|kind| &**kind).collect());
        let (from, to) = (self.from.cast_signed(), upto.cast_signed());
        let limit = i64::try_from(read.limit).unwrap_or(i64::MAX);
        let ahead = self.after.iter().map(|(p, a)| (*p, *a)).filter(|(_, a)| *a >= self.from);
        let bounds = by_partition(ahead, self.partitions);
        let asked = by_partition(read.after.iter().copied(), self.partitions);
        let by_time = sabotage.has(Defect::OrderByTime);
        let scan = if by_time { SCAN.replace("BY sequence", "BY time") } else { SCAN.into() };
        let scan = client.prepare_cached(&scan).await.during("read the log")?;
        let probe = client.prepare_cached(PROBE).await.during("read the log")?;
        let trimmed = client.prepare_cached(BEHIND).await.during("read the log")?;
        let share = (read.limit / self.lagging.len().max(1)).max(1);
        let (partitions, after): (Vec<i32>, Vec<i64>) =
            self.lagging.iter().map(|(p, a)| (i32::from(*p), a.cast_signed())).unzip();
        let (each, head) = (i64::try_from(share).unwrap_or(i64::MAX), now.head.cast_signed());
        let none = self.lagging.is_empty();
        // Sent in this order and carried out in this order, in one round trip.
        let scan_binds: [&(dyn ToSql + Sync); 5] = [&from, &to, &bounds, &kinds, &limit];
        let scanning = client.query(&scan, &scan_binds);
        let probe_binds: [&(dyn ToSql + Sync); 5] = [&partitions, &after, &head, &kinds, &each];
        let probing =
            async { if none { Ok(Vec::new()) } else { client.query(&probe, &probe_binds).await } };
        let trimmed_binds: [&(dyn ToSql + Sync); 1] = [&asked];
        let looking = client.query(&trimmed, &trimmed_binds);
        let (scanned, probed, gone) =
            future::try_join3(scanning, probing, looking).await.during("read the log")?;
        let (mut lives, mut bounds) = (0, BTreeMap::new());
        for found in &gone {
            match found.get::<_, i32>(0) {
                -1 => lives = row::number(found, 1)?,
                _ => drop(bounds.insert(row::partition(found, 0)?, row::number(found, 1)?)),
            }
        }
        Ok(Found { scanned, probed, lives, gone: bounds, upto, share })
    }

    /// Records in order, and for each partition how far it was looked through.
    fn page(&self, source: &Source, read: &Read, now: &Horizon, found: &Found) -> Result<Page> {
        let mut take = Take { source, read, page: Page::default(), bytes: 0, arena: Arena::new() };
        let full = found.scanned.len() >= read.limit;
        let mut reached = found.upto;
        let mut counts: BTreeMap<Partition, usize> = BTreeMap::new();
        let mut cut = BTreeSet::new();
        for record in &found.probed {
            let partition = row::partition(record, 1)?;
            *counts.entry(partition).or_default() += 1;
            if cut.contains(&partition) || !take.record(record)? {
                cut.insert(partition);
            }
        }
        let mut ended = full;
        for record in &found.scanned {
            if !take.record(record)? {
                (reached, ended) = (row::number(record, 0)?.saturating_sub(1), true);
                break;
            }
            if full {
                reached = row::number(record, 0)?;
            }
        }
        let mut page = take.page;
        page.more = ended || now.head > found.upto || !cut.is_empty();
        let mut last: BTreeMap<Partition, Sequence> = BTreeMap::new();
        for record in &page.records {
            let seen = last.entry(record.partition).or_insert(START);
            *seen = record.sequence.max(*seen);
        }
        for (partition, after) in &self.after {
            let seen = last.get(partition).copied().unwrap_or(START);
            let lags = *after < self.from;
            let whole = counts.get(partition).copied().unwrap_or(0) < found.share
                && !cut.contains(partition);
            let bound = match (lags, whole) {
                _ if now.busy.contains(partition) => START,
                (false, _) => reached,
                (true, true) => now.head,
                (true, false) => START,
            };
            page.more |= lags && !whole;
            let upto = seen.max(bound);
            let asked = read.after.iter().find(|(p, _)| p == partition).map_or(START, |(_, a)| *a);
            if upto > asked {
                page.upto.push((*partition, upto));
            }
        }
        Ok(page)
    }
}

struct Take<'a> {
    source: &'a Source,
    read: &'a Read,
    page: Page,
    bytes: usize,
    arena: Arena,
}

impl Take<'_> {
    /// Takes a record while there is room.
    fn record(&mut self, found: &Row) -> Result<bool> {
        if self.page.records.len() >= self.read.limit {
            return Ok(false);
        }
        let event = row::event(found, 2, &mut self.arena)?;
        self.bytes += event.size();
        if self.bytes > self.read.bytes_max && !self.page.records.is_empty() {
            return Ok(false);
        }
        let sequence = row::number(found, 0)?;
        self.page.records.push(Record {
            source: self.source.name.clone(),
            incarnation: self.source.incarnation_at(sequence),
            partition: row::partition(found, 1)?,
            sequence,
            event,
        });
        Ok(true)
    }
}

pub(crate) async fn cursors(client: &Client, sink: &str) -> Result<Vec<Cursor>> {
    let (rows, keys) = future::try_join(
        client.query(
            "SELECT partition, sequence, chain, attempts, retry_at, reason FROM onewrite.cursor WHERE sink = $1 ORDER BY partition",
            &[&sink],
        ),
        client.query(
            "SELECT partition, key FROM onewrite.parked_key WHERE scope = 'relay/' || $1",
            &[&sink],
        ),
    )
    .await
    .during("read the cursors")?;
    let mut parked: BTreeMap<Partition, Vec<Text>> = BTreeMap::new();
    for key in &keys {
        parked.entry(row::partition(key, 0)?).or_default().push(row::text(key, 1)?);
    }
    rows.iter()
        .map(|found| {
            let partition = row::partition(found, 0)?;
            Ok(Cursor {
                partition,
                sequence: row::number(found, 1)?,
                chain: row::number(found, 2)?,
                attempts: u32::try_from(row::number(found, 3)?).unwrap_or(u32::MAX),
                retry_at: row::time(found, 4)?,
                reason: row::option(found, 5)?,
                parked: parked.remove(&partition).unwrap_or_default(),
            })
        })
        .collect()
}

pub(crate) async fn id_at(client: &Client, sequence: Sequence) -> Result<Option<Text>> {
    let found = client
        .query_opt(
            "SELECT id FROM onewrite.log WHERE sequence = $1 UNION ALL SELECT id FROM onewrite.history WHERE sequence = $1 LIMIT 1",
            &[&sequence.cast_signed()],
        )
        .await
        .during("look up a record's id")?;
    found.map(|found| row::text(&found, 0)).transpose()
}

/// For each partition that was trimmed, the highest sequence deleted from it.
pub(crate) async fn all_trimmed(client: &Client) -> Result<Vec<(Partition, Sequence)>> {
    let rows = client
        .query("SELECT partition, sequence FROM onewrite.trimmed", &[])
        .await
        .during("read how far the log is trimmed")?;
    rows.iter().map(|found| Ok((row::partition(found, 0)?, row::number(found, 1)?))).collect()
}

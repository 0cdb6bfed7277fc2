//! Reading the log: one forward scan serves all partitions.
//!
//! Sequence numbers are drawn from one counter, so the log's own order interleaves the partitions and
//! a scan from the lowest cursor reads each row once; rows of partitions that are further are passed
//! over by looking at one small column.

use onewrite_core::{
    Partition, Record, Result, Sequence, Text, Timestamp,
    position::{START, Source},
    sabotage::{Defect, Sabotage},
    store::{Cursor, Page, Read},
};
use rusqlite::{Connection, OptionalExtension};

use crate::{
    error::While,
    row::{self, Arena, event_columns},
    schema,
};

/// Rows one read looks through at most, so that its snapshot is short.
const SCAN_MAX: usize = 20_000;

const SCAN: &str = concat!(
    "SELECT sequence, partition, ",
    event_columns!(),
    " FROM onewrite_outbox WHERE sequence > ?1 ORDER BY sequence"
);
const SCAN_BY_TIME: &str = concat!(
    "SELECT sequence, partition, ",
    event_columns!(),
    " FROM onewrite_outbox WHERE sequence > ?1 ORDER BY time"
);

/// Reads a page, and the source as it is at that moment: another process may have forked it.
pub(crate) fn page_now(
    connection: &Connection,
    read: &Read,
    sabotage: Sabotage,
) -> Result<(Source, Page)> {
    let snapshot = connection.unchecked_transaction().during("begin to read the log")?;
    let source = schema::source(&snapshot)?;
    let mut found = page(&snapshot, &source, read, sabotage)?;
    found.trimmed = trimmed_behind(&snapshot, read)?;
    Ok((source, found))
}

fn trimmed_behind(connection: &Connection, read: &Read) -> Result<Vec<(Partition, Sequence)>> {
    let mut gone = trimmed(connection)?;
    gone.retain(|(partition, last)| {
        read.after.iter().any(|(asked, after)| asked == partition && after < last)
    });
    Ok(gone)
}

fn page(connection: &Connection, source: &Source, read: &Read, sabotage: Sabotage) -> Result<Page> {
    let mut page = Page::default();
    let Some(from) = read.after.iter().map(|(_, after)| *after).min() else { return Ok(page) };
    let mut wanted: Vec<Option<Sequence>> = vec![None; usize::from(source.partitions)];
    for (partition, after) in &read.after {
        if let Some(slot) = wanted.get_mut(usize::from(*partition)) {
            *slot = Some(*after);
        }
    }
    let sql = if sabotage.has(Defect::OrderByTime) { SCAN_BY_TIME } else { SCAN };
    let mut statement = connection.prepare_cached(sql).during("read the log")?;
    let mut rows = statement.query([from.cast_signed()]).during("read the log")?;
    let mut arena = Arena::new();
    let (mut seen, mut bytes, mut last) = (0_usize, 0_usize, START);
    while let Some(found) = rows.next().during("read the log")? {
        let sequence = found.get::<_, i64>(0).during("read the log")?.cast_unsigned();
        if seen >= SCAN_MAX || page.records.len() >= read.limit {
            page.more = true;
            break;
        }
        seen += 1;
        let before = last;
        last = last.max(sequence);
        let partition: Partition = found.get(1).during("read a record's partition")?;
        let behind = wanted.get(usize::from(partition)).copied().flatten();
        if behind.is_none_or(|after| sequence <= after) {
            continue;
        }
        let event = row::event(found, 2, &mut arena)?;
        if !read.kinds.is_empty() && !read.kinds.contains(&event.kind) {
            continue;
        }
        bytes += event.size();
        if bytes > read.bytes_max && !page.records.is_empty() {
            last = before;
            page.more = true;
            break;
        }
        page.records.push(Record {
            source: source.name.clone(),
            incarnation: source.incarnation_at(sequence),
            partition,
            sequence,
            event,
        });
    }
    page.upto = read
        .after
        .iter()
        .filter(|(_, after)| *after < last)
        .map(|(partition, _)| (*partition, last))
        .collect();
    Ok(page)
}

/// The sequence behind which everything placed at `time` or later stands.
pub(crate) fn before(connection: &Connection, time: Timestamp) -> Result<Sequence> {
    let first: Option<i64> = connection
        .prepare_cached("SELECT min(sequence) FROM onewrite_outbox WHERE placed_at >= ?1")
        .and_then(|mut statement| statement.query_row([time.0], |row| row.get(0)))
        .during("look for the first record of a time")?;
    match first {
        Some(first) => Ok(first.cast_unsigned() - 1),
        None => schema::head(connection),
    }
}

pub(crate) fn cursors(connection: &Connection, sink: &str) -> Result<Vec<Cursor>> {
    let mut statement = connection
        .prepare_cached("SELECT partition, sequence, chain, attempts, retry_at, reason FROM onewrite_cursor WHERE sink = ?1 ORDER BY partition")
        .during("read the cursors")?;
    let rows = statement
        .query_map([sink], |row| {
            Ok(Cursor {
                partition: row.get(0)?,
                sequence: row.get::<_, i64>(1)?.cast_unsigned(),
                chain: row.get::<_, i64>(2)?.cast_unsigned(),
                attempts: row.get(3)?,
                retry_at: row.get::<_, Option<i64>>(4)?.map(Timestamp),
                reason: row.get::<_, Option<String>>(5)?.map(Text::from),
                parked: Vec::new(),
            })
        })
        .during("read the cursors")?;
    let mut cursors = rows.collect::<rusqlite::Result<Vec<Cursor>>>().during("read the cursors")?;
    let mut parked = connection
        .prepare_cached(
            "SELECT partition, key FROM onewrite_parked_key WHERE scope = 'relay/' || ?1",
        )
        .during("read the parked keys")?;
    let keys = parked
        .query_map([sink], |row| Ok((row.get::<_, Partition>(0)?, row.get::<_, String>(1)?)))
        .during("read the parked keys")?;
    for key in keys {
        let (partition, key) = key.during("read the parked keys")?;
        if let Some(cursor) = cursors.iter_mut().find(|cursor| cursor.partition == partition) {
            cursor.parked.push(key.into());
        }
    }
    Ok(cursors)
}

pub(crate) fn id_at(connection: &Connection, sequence: Sequence) -> Result<Option<Text>> {
    connection
        .prepare_cached(
            "SELECT id FROM onewrite_outbox WHERE sequence = ?1 UNION ALL SELECT id FROM onewrite_history WHERE sequence = ?1 LIMIT 1",
        )
        .and_then(|mut statement| statement.query_row([sequence.cast_signed()], |row| row.get::<_, String>(0)).optional())
        .during("look up a record's id")
        .map(|id| id.map(Text::from))
}

/// For each partition that was trimmed, the highest sequence deleted from it.
pub(crate) fn trimmed(connection: &Connection) -> Result<Vec<(Partition, Sequence)>> {
    connection
        .prepare_cached("SELECT partition, sequence FROM onewrite_trimmed")
        .and_then(|mut statement| {
            let rows = statement
                .query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?;
            rows.collect()
        })
        .during("read how far the log is trimmed")
}

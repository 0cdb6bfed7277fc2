//! The receiver's rows: marks, attempts, and ids seen.

use std::collections::{BTreeMap, BTreeSet};

use onewrite_core::{
    Incarnation, Partition, Record, Result, Text,
    inbox::{Lane, LaneState, Policy},
};

use crate::{
    client::Client,
    parking::digest,
    row::{self, binds, execute, now},
};

/// The rows of `lanes`, made where they are missing, locked until the transaction ends, in one order.
pub(super) async fn lock_lanes(
    tx: &mut impl Client,
    policy: &Policy,
    lanes: &BTreeSet<Lane>,
) -> Result<Vec<(Lane, LaneState)>> {
    let mut found = locked(tx, policy, lanes).await?;
    if found.len() < lanes.len() {
        let there: BTreeSet<&Lane> = found.iter().map(|(lane, _)| lane).collect();
        let missing =
            lanes.iter().filter(|lane| !there.contains(lane)).map(|lane| key(policy, lane));
        let sql = format!(
            "INSERT INTO onewrite_inbox (consumer, source, incarnation, `partition`) VALUES {} ON DUPLICATE KEY UPDATE gap = gap",
            missing.map(|key| format!("({key})")).collect::<Vec<_>>().join(",")
        );
        tx.text(&sql, "make the receiver's rows").await?;
        found = locked(tx, policy, lanes).await?;
    }
    Ok(found)
}

async fn locked(
    tx: &mut impl Client,
    policy: &Policy,
    lanes: &BTreeSet<Lane>,
) -> Result<Vec<(Lane, LaneState)>> {
    let mut streams: BTreeMap<(&Text, Incarnation), Vec<String>> = BTreeMap::new();
    for lane in lanes {
        streams
            .entry((&lane.source, lane.incarnation))
            .or_default()
            .push(lane.partition.to_string());
    }
    let mut out = Vec::with_capacity(lanes.len());
    for ((source, life), partitions) in streams {
        let sql = format!(
            "SELECT `partition`, sequence, last_id, attempt_first, attempts, redriven, gap FROM onewrite_inbox
             WHERE consumer = {} AND source = {} AND incarnation = '{life}' AND `partition` IN ({}) ORDER BY `partition` FOR UPDATE",
            row::quoted(&policy.consumer),
            row::quoted(source),
            partitions.join(",")
        );
        for mut found in tx.text(&sql, "lock the receiver's rows").await? {
            let found = &mut found;
            let partition: Partition = row::get(found, 0)?;
            let state = LaneState {
                sequence: row::number(found, 1)?,
                last_id: row::text(found, 2)?,
                attempt_first: row::number(found, 3)?,
                attempts: u32::try_from(row::number(found, 4)?).unwrap_or(u32::MAX),
                redriven: row::number(found, 5)?,
                gap: row::number(found, 6)?,
            };
            out.push((Lane { source: source.clone(), incarnation: life, partition }, state));
        }
    }
    Ok(out)
}

/// The values of a row's primary key.
fn key(policy: &Policy, lane: &Lane) -> String {
    let (consumer, source) = (row::quoted(&policy.consumer), row::quoted(&lane.source));
    format!("{consumer},{source},'{}',{}", lane.incarnation, lane.partition)
}

/// Writes the rows of lanes, which are locked.
pub(super) async fn move_marks(
    tx: &mut impl Client,
    policy: &Policy,
    changed: &[(&Lane, &LaneState)],
) -> Result<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let values = changed.iter().map(|(lane, state)| {
        let LaneState { sequence, last_id, attempt_first, attempts, redriven, gap } = state;
        let (key, id) = (key(policy, lane), row::quoted(last_id));
        format!("({key},{sequence},{id},{attempt_first},{attempts},{redriven},{gap})")
    });
    let sql = format!(
        "INSERT INTO onewrite_inbox (consumer, source, incarnation, `partition`, sequence, last_id, attempt_first, attempts, redriven, gap)
         VALUES {} ON DUPLICATE KEY UPDATE sequence = VALUES(sequence), last_id = VALUES(last_id), attempt_first = VALUES(attempt_first),
             attempts = VALUES(attempts), redriven = VALUES(redriven), gap = VALUES(gap)",
        values.collect::<Vec<_>>().join(",")
    );
    tx.text(&sql, "move the receiver's marks").await.map(drop)
}

/// Insert first: whether the id is new is decided by the insert alone. (What is inserted has a fixed length, so
/// nothing but a duplicate is ignored.)
pub(super) async fn remember(
    tx: &mut impl Client,
    policy: &Policy,
    record: &Record,
) -> Result<u64> {
    let sql = concat!(
        "INSERT IGNORE INTO onewrite_inbox_id (consumer, digest, seen_at) VALUES (?, ",
        digest!("?", "?"),
        ", ",
        now!(),
        ")"
    );
    execute(tx, sql, binds![&*policy.consumer, &*record.source, record.id()]).await
}

/// Takes back what [`remember`] inserted: the event was refused and is to come again.
pub(super) async fn forget(tx: &mut impl Client, policy: &Policy, record: &Record) -> Result<u64> {
    let sql = concat!(
        "DELETE FROM onewrite_inbox_id WHERE consumer = ? AND digest = ",
        digest!("?", "?")
    );
    execute(tx, sql, binds![&*policy.consumer, &*record.source, record.id()]).await
}

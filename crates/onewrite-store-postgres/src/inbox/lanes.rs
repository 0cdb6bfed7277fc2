//! The receiver's rows: marks, attempts, and ids seen.

use std::collections::BTreeSet;

use deadpool_postgres::Transaction;
use onewrite_core::{
    Record, Result,
    inbox::{Lane, LaneState, Policy},
};
use tokio_postgres::types::ToSql;

use crate::{commit::execute, row, statement, trim::query};

/// The rows of `lanes`, made where they are missing, locked until the transaction ends, in one order.
pub(super) async fn lock_lanes(
    tx: &Transaction<'_>,
    policy: &Policy,
    lanes: &BTreeSet<Lane>,
) -> Result<Vec<(Lane, LaneState)>> {
    let sources: Vec<&str> = lanes.iter().map(|lane| &*lane.source).collect();
    let lives: Vec<String> = lanes.iter().map(|lane| lane.incarnation.to_string()).collect();
    let partitions: Vec<i32> = lanes.iter().map(|lane| i32::from(lane.partition)).collect();
    let consumer = &*policy.consumer;
    let binds: [&(dyn ToSql + Sync); 4] = [&consumer, &sources, &lives, &partitions];
    execute(tx, statement::MAKE_LANES, &binds).await?;
    let rows = query(tx, statement::LOCK_LANES, &binds).await?;
    rows.iter()
        .map(|found| {
            let lane = Lane {
                source: row::text(found, 0)?,
                incarnation: row::text(found, 1)?.parse()?,
                partition: row::partition(found, 2)?,
            };
            let state = LaneState {
                sequence: row::number(found, 3)?,
                last_id: row::text(found, 4)?,
                attempt_first: row::number(found, 5)?,
                attempts: u32::try_from(row::number(found, 6)?).unwrap_or(u32::MAX),
                redriven: row::number(found, 7)?,
                gap: row::number(found, 8)?,
            };
            Ok((lane, state))
        })
        .collect()
}

/// Writes the rows of lanes, which are locked.
pub(super) async fn move_marks(
    tx: &Transaction<'_>,
    policy: &Policy,
    changed: &[(&Lane, &LaneState)],
) -> Result<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let sources: Vec<&str> = changed.iter().map(|(lane, _)| &*lane.source).collect();
    let lives: Vec<String> = changed.iter().map(|(lane, _)| lane.incarnation.to_string()).collect();
    let partitions: Vec<i32> = changed.iter().map(|(lane, _)| i32::from(lane.partition)).collect();
    let ids: Vec<&str> = changed.iter().map(|(_, state)| &*state.last_id).collect();
    let column = |pick: fn(&LaneState) -> u64| -> Vec<i64> {
        changed.iter().map(|(_, state)| pick(state).cast_signed()).collect()
    };
    execute(
        tx,
        statement::MOVE_MARKS,
        &[
            &&*policy.consumer,
            &sources,
            &lives,
            &partitions,
            &column(|state| state.sequence),
            &ids,
            &column(|state| state.attempt_first),
            &column(|state| state.attempts.into()),
            &column(|state| state.redriven),
            &column(|state| state.gap),
        ],
    )
    .await
    .map(|_| ())
}

/// Insert first: whether the id is new is decided by the insert alone.
pub(super) async fn remember(
    tx: &Transaction<'_>,
    policy: &Policy,
    record: &Record,
) -> Result<u64> {
    execute(tx, statement::REMEMBER, &[&&*policy.consumer, &&*record.source, &record.id()]).await
}

/// Takes back what [`remember`] inserted: the event was refused and is to come again.
pub(super) async fn forget(tx: &Transaction<'_>, policy: &Policy, record: &Record) -> Result<u64> {
    execute(tx, statement::FORGET, &[&&*policy.consumer, &&*record.source, &record.id()]).await
}

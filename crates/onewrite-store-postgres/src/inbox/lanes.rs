//! The receiver's rows: marks, attempts, and ids seen.

use std::collections::BTreeSet;

use deadpool_postgres::Transaction;
use onewrite_core::{
    Result,
    inbox::{Bind, Lane, LaneState, Policy, Statement},
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

/// Runs a session's statement.
pub(super) async fn run(
    tx: &Transaction<'_>,
    statement: Statement<'_>,
    (consumer, scope): (&str, &str),
) -> Result<u64> {
    let (sql, binds) = (statement::of(statement), statement.binds(consumer, scope));
    let binds: Vec<&(dyn ToSql + Sync)> = binds.iter().map(value).collect();
    if statement.asks() {
        let found = query(tx, sql, &binds).await?;
        return found.first().map_or(Ok(0), |found| row::number(found, 0));
    }
    execute(tx, sql, &binds).await
}

fn value<'a>(bind: &'a Bind<'a>) -> &'a (dyn ToSql + Sync) {
    match bind {
        Bind::Text(text) => text,
        Bind::Number(number) => number,
        Bind::Bytes(bytes) => bytes,
    }
}

//! The receiver's rows, through `sqlx`.

use std::{borrow::Cow, collections::BTreeSet};

use onewrite_core::{
    Result,
    inbox::{Bind, Lane, LaneState, Policy, Statement},
};
use sqlx::{PgConnection, Postgres, Row as _, postgres::PgArguments, query::Query};

use super::failed;
use crate::statement;

/// A statement with what it takes.
pub(super) fn bound<'a>(
    sql: &'static str,
    binds: impl IntoIterator<Item = Bind<'a>>,
) -> Query<'static, Postgres, PgArguments> {
    binds.into_iter().fold(sqlx::query(sql), |query, bind| match bind {
        Bind::Text(text) => query.bind(text.map(Cow::into_owned)),
        Bind::Number(number) => query.bind(number),
        Bind::Bytes(bytes) => query.bind(bytes.to_vec()),
    })
}

/// Runs a session's statement.
pub(super) async fn run(
    tx: &mut PgConnection,
    statement: Statement<'_>,
    (consumer, scope): (&str, &str),
) -> Result<u64> {
    let query = bound(statement::of(statement), statement.binds(consumer, scope));
    if statement.asks() {
        let found = query.fetch_optional(tx).await.map_err(failed("read"))?;
        return Ok(found.map_or(0, |found| found.get::<i64, _>(0).cast_unsigned()));
    }
    query.execute(tx).await.map(|done| done.rows_affected()).map_err(failed("write"))
}

pub(super) async fn lock_lanes(
    tx: &mut PgConnection,
    policy: &Policy,
    lanes: &BTreeSet<Lane>,
) -> Result<Vec<(Lane, LaneState)>> {
    let sources: Vec<String> = lanes.iter().map(|lane| lane.source.to_string()).collect();
    let lives: Vec<String> = lanes.iter().map(|lane| lane.incarnation.to_string()).collect();
    let partitions: Vec<i32> = lanes.iter().map(|lane| i32::from(lane.partition)).collect();
    let bound = |sql: &'static str| {
        sqlx::query(sql)
            .bind(policy.consumer.to_string())
            .bind(sources.clone())
            .bind(lives.clone())
            .bind(partitions.clone())
    };
    bound(statement::MAKE_LANES)
        .execute(&mut *tx)
        .await
        .map_err(failed("make the receiver's rows"))?;
    let found = bound(statement::LOCK_LANES)
        .fetch_all(&mut *tx)
        .await
        .map_err(failed("read the receiver's marks"))?;
    found
        .iter()
        .map(|row| {
            let number = |index: usize| row.get::<i64, _>(index).cast_unsigned();
            let lane = Lane {
                source: row.get::<String, _>(0).into(),
                incarnation: row.get::<String, _>(1).parse()?,
                partition: u16::try_from(row.get::<i32, _>(2)).unwrap_or(u16::MAX),
            };
            let state = LaneState {
                sequence: number(3),
                last_id: row.get::<String, _>(4).into(),
                attempt_first: number(5),
                attempts: u32::try_from(number(6)).unwrap_or(u32::MAX),
                redriven: number(7),
                gap: number(8),
            };
            Ok((lane, state))
        })
        .collect()
}

pub(super) async fn move_marks(
    tx: &mut PgConnection,
    policy: &Policy,
    changed: &[(&Lane, &LaneState)],
) -> Result<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let texts = |pick: &dyn Fn(&Lane, &LaneState) -> String| -> Vec<String> {
        changed.iter().map(|(lane, state)| pick(lane, state)).collect()
    };
    let numbers = |pick: fn(&LaneState) -> u64| -> Vec<i64> {
        changed.iter().map(|(_, state)| pick(state).cast_signed()).collect()
    };
    sqlx::query(statement::MOVE_MARKS)
        .bind(policy.consumer.to_string())
        .bind(texts(&|lane, _| lane.source.to_string()))
        .bind(texts(&|lane, _| lane.incarnation.to_string()))
        .bind(changed.iter().map(|(lane, _)| i32::from(lane.partition)).collect::<Vec<_>>())
        .bind(numbers(|state| state.sequence))
        .bind(texts(&|_, state| state.last_id.to_string()))
        .bind(numbers(|state| state.attempt_first))
        .bind(numbers(|state| state.attempts.into()))
        .bind(numbers(|state| state.redriven))
        .bind(numbers(|state| state.gap))
        .execute(tx)
        .await
        .map(|_| ())
        .map_err(failed("move the receiver's marks"))
}

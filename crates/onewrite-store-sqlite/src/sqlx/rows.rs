//! The receiver's rows, through `sqlx`.

use std::borrow::Cow;

use onewrite_core::{
    Result,
    inbox::{Bind, Lane, LaneState, Policy, Statement},
};
use sqlx::{Row as _, Sqlite, SqliteConnection, query::Query, sqlite::SqliteArguments};

use super::failed;
use crate::statement;

/// A statement with what it takes.
pub(super) fn bound<'a>(
    sql: &'static str,
    binds: impl IntoIterator<Item = Bind<'a>>,
) -> Query<'static, Sqlite, SqliteArguments> {
    binds.into_iter().fold(sqlx::query(sql), |query, bind| match bind {
        Bind::Text(text) => query.bind(text.map(Cow::into_owned)),
        Bind::Number(number) => query.bind(number),
        Bind::Bytes(bytes) => query.bind(bytes.to_vec()),
    })
}

/// The number that a query brings.
pub(super) async fn count(
    tx: &mut SqliteConnection,
    query: Query<'_, Sqlite, SqliteArguments>,
) -> Result<u64> {
    let found = query.fetch_one(tx).await.and_then(|row| row.try_get(0));
    found.map(i64::cast_unsigned).map_err(failed("count"))
}

/// Runs a session's statement.
pub(super) async fn run(
    tx: &mut SqliteConnection,
    statement: Statement<'_>,
    (consumer, scope): (&str, &str),
) -> Result<u64> {
    let (sql, binds) = statement::of(statement, consumer, scope);
    if statement.asks() {
        return count(tx, bound(sql, binds)).await;
    }
    let done = bound(sql, binds).execute(tx).await;
    done.map(|done| done.rows_affected()).map_err(failed("write"))
}

pub(super) async fn lane_state(
    tx: &mut SqliteConnection,
    policy: &Policy,
    lane: &Lane,
) -> Result<LaneState> {
    let found = sqlx::query(statement::LANE_STATE)
        .bind(policy.consumer.to_string())
        .bind(lane.source.to_string())
        .bind(lane.incarnation.to_string())
        .bind(lane.partition)
        .fetch_optional(tx)
        .await
        .map_err(failed("read the receiver's mark"))?;
    let Some(row) = found else { return Ok(LaneState::default()) };
    Ok(LaneState {
        sequence: row.get::<i64, _>(0).cast_unsigned(),
        last_id: row.get::<String, _>(1).into(),
        attempt_first: row.get::<i64, _>(2).cast_unsigned(),
        attempts: row.get(3),
        redriven: row.get::<i64, _>(4).cast_unsigned(),
        gap: row.get::<i64, _>(5).cast_unsigned(),
    })
}

pub(super) async fn move_mark(
    tx: &mut SqliteConnection,
    policy: &Policy,
    lane: &Lane,
    state: &LaneState,
) -> Result<()> {
    sqlx::query(statement::MOVE_MARK)
        .bind(policy.consumer.to_string())
        .bind(lane.source.to_string())
        .bind(lane.incarnation.to_string())
        .bind(lane.partition)
        .bind(state.sequence.cast_signed())
        .bind(state.last_id.to_string())
        .bind(state.attempt_first.cast_signed())
        .bind(state.attempts)
        .bind(state.redriven.cast_signed())
        .bind(state.gap.cast_signed())
        .execute(tx)
        .await
        .map(|_| ())
        .map_err(failed("move the receiver's mark"))
}

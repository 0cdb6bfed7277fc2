//! The receiver's rows, through `sqlx`.

use onewrite_core::{
    Record, Result, Text,
    inbox::{Lane, LaneState, Policy},
};
use sqlx::{
    AssertSqlSafe, Row as _, Sqlite, SqliteConnection, query::Query, sqlite::SqliteArguments,
};

use super::failed;
use crate::{row, statement, writer::now};

/// A statement whose binds are texts.
pub(super) fn query(sql: &'static str, texts: &[&str]) -> Query<'static, Sqlite, SqliteArguments> {
    texts.iter().fold(sqlx::query(sql), |query, text| query.bind((*text).to_owned()))
}

/// Runs one.
pub(super) async fn execute(
    tx: &mut SqliteConnection,
    sql: &'static str,
    texts: &[&str],
) -> Result<u64> {
    let done = query(sql, texts).execute(tx).await;
    done.map(|done| done.rows_affected()).map_err(failed("write"))
}

/// The number that one brings.
pub(super) async fn count(
    tx: &mut SqliteConnection,
    sql: &'static str,
    texts: &[&str],
) -> Result<u64> {
    let found = query(sql, texts).fetch_one(tx).await;
    found.and_then(|row| row.try_get(0)).map(i64::cast_unsigned).map_err(failed("count"))
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

/// Insert first: whether the id is new is decided by the insert alone.
pub(super) async fn remember(
    tx: &mut SqliteConnection,
    consumer: &str,
    record: &Record,
) -> Result<u64> {
    let binds = [consumer, &*record.source, record.id()];
    let inserted = query(statement::REMEMBER, &binds).bind(now().0).execute(tx).await;
    inserted.map(|done| done.rows_affected()).map_err(failed("remember an event's id"))
}

pub(super) async fn park(
    tx: &mut SqliteConnection,
    scope: &str,
    record: &Record,
    reason: &str,
) -> Result<u64> {
    let event = &record.event;
    let option = |text: &Option<Text>| text.as_ref().map(ToString::to_string);
    sqlx::query(AssertSqlSafe(statement::PARK_RECORD))
        .bind(scope.to_owned())
        .bind(record.source.to_string())
        .bind(record.incarnation.to_string())
        .bind(record.sequence.cast_signed())
        .bind(record.partition)
        .bind(event.time.unwrap_or_else(now).0)
        .bind(record.id().to_owned())
        .bind(event.kind.to_string())
        .bind(event.aggregate_type.to_string())
        .bind(event.aggregate_id.to_string())
        .bind(event.order_key().to_string())
        .bind(event.content_type.to_string())
        .bind(event.schema_version)
        .bind(option(&event.source))
        .bind(option(&event.data_schema))
        .bind(option(&event.correlation_id))
        .bind(option(&event.causation_id))
        .bind(option(&event.user_id))
        .bind(option(&event.dedup_key))
        .bind(option(&event.traceparent))
        .bind(row::headers_to(&event.headers))
        .bind(event.data.to_vec())
        .execute(&mut *tx)
        .await
        .map_err(failed("park a record"))?;
    sqlx::query(statement::PARK_KEY)
        .bind(scope.to_owned())
        .bind(record.source.to_string())
        .bind(event.order_key().to_string())
        .bind(record.partition)
        .bind(reason.to_owned())
        .bind(now().0)
        .execute(tx)
        .await
        .map(|done| done.rows_affected())
        .map_err(failed("park a key"))
}

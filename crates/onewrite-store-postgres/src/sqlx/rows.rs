//! The receiver's rows, through `sqlx`.

use std::collections::BTreeSet;

use onewrite_core::{
    Record, Result, Text,
    inbox::{Lane, LaneState, Policy},
};
use sqlx::{PgConnection, Postgres, Row as _, postgres::PgArguments, query::Query};

use super::failed;
use crate::{row, statement};

/// A statement whose binds are texts.
pub(super) fn query(sql: &'static str, texts: &[&str]) -> Query<'static, Postgres, PgArguments> {
    texts.iter().fold(sqlx::query(sql), |query, text| query.bind((*text).to_owned()))
}

/// Runs one; `context` says what is being done.
pub(super) async fn execute(
    tx: &mut PgConnection,
    sql: &'static str,
    texts: &[&str],
    context: &'static str,
) -> Result<u64> {
    let done = query(sql, texts).execute(tx).await;
    done.map(|done| done.rows_affected()).map_err(failed(context))
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

pub(super) async fn park(
    tx: &mut PgConnection,
    scope: &str,
    record: &Record,
    reason: &str,
) -> Result<u64> {
    let event = &record.event;
    let option = |text: &Option<Text>| text.as_ref().map(ToString::to_string);
    sqlx::query(statement::PARK_RECORD)
        .bind(scope.to_owned())
        .bind(record.source.to_string())
        .bind(record.incarnation.to_string())
        .bind(record.sequence.cast_signed())
        .bind(i32::from(record.partition))
        .bind(event.time.map(|time| time.0))
        .bind(record.id().to_owned())
        .bind(event.kind.to_string())
        .bind(event.aggregate_type.to_string())
        .bind(event.aggregate_id.to_string())
        .bind(event.order_key().to_string())
        .bind(event.content_type.to_string())
        .bind(i64::from(event.schema_version))
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
        .bind(i32::from(record.partition))
        .bind(reason.to_owned())
        .execute(tx)
        .await
        .map(|done| done.rows_affected())
        .map_err(failed("park a key"))
}

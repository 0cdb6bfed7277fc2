//! Emitting within a `sqlx` transaction.

use onewrite_core::{Event, Result, Text};
use sqlx::PgConnection;

use super::failed;
use crate::{
    emit::{emit_statement, new_id},
    row,
};

/// With the time in microseconds since 1970.
const EMIT: &str = emit_statement!("'epoch'::timestamptz + $17::int8 * interval '1 microsecond'");

/// Emits `event` within the transaction that is open on `tx`: it is committed with the caller's own rows or
/// not at all. Pass `&mut *tx`. It takes its place when the transaction commits. Returns its id.
///
/// # Errors
/// As [`crate::emit`].
pub async fn emit(tx: &mut PgConnection, event: &Event) -> Result<Text> {
    event.check(usize::MAX)?;
    let id = event.id.clone().unwrap_or_else(new_id);
    let option = |text: &Option<Text>| text.as_ref().map(ToString::to_string);
    sqlx::query(EMIT)
        .bind(id.to_string())
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
        .bind(event.time.map(|time| time.0))
        .execute(tx)
        .await
        .map_err(failed("emit an event"))?;
    Ok(id)
}

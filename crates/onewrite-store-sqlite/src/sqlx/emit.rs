//! Emitting within a `sqlx` transaction.

use onewrite_core::{
    Code, Error, Event, Result, event::EVENT_BYTES_MAX_DEFAULT, position::partition_of,
};
use sqlx::{AssertSqlSafe, Row, SqliteConnection};

use super::failed;
use crate::{
    Placed,
    emit::{EMIT, new_id},
    row,
    writer::now,
};

/// Appends `event` to the log within the transaction that is open on `tx`: it is committed with the
/// caller's own rows or not at all. Pass `&mut *tx`. Emit last.
///
/// # Errors
/// As [`crate::emit`]: [`Code::UnsafeSetting`], [`Code::InvalidEvent`], [`Code::EventTooLarge`],
/// [`Code::SchemaMissing`], or what the database says.
pub async fn emit(tx: &mut SqliteConnection, event: &Event) -> Result<Placed> {
    let terms = sqlx::query(
        "SELECT (SELECT CAST(value AS INTEGER) FROM onewrite_meta WHERE name = 'partitions'),
                (SELECT CAST(value AS INTEGER) FROM onewrite_meta WHERE name = 'event_bytes_max'),
                (SELECT synchronous FROM pragma_synchronous)",
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(|error| {
        Error::new(Code::SchemaMissing, "read the source's terms").with_source(error)
    })?;
    let number = |index: usize| {
        terms.try_get::<Option<i64>, _>(index).map_err(failed("read the source's terms"))
    };
    if number(2)?.unwrap_or(2) < 2 {
        return Err(Error::new(
            Code::UnsafeSetting,
            "this connection runs with `synchronous` below FULL: a power cut could undo what was acknowledged and delivered; set SqliteSynchronous::Full",
        ));
    }
    let missing = || Error::new(Code::SchemaMissing, "onewrite_meta holds no number of partitions");
    let partitions = number(0)?.and_then(|value| u16::try_from(value).ok()).ok_or_else(missing)?;
    let bytes_max =
        number(1)?.and_then(|value| usize::try_from(value).ok()).unwrap_or(EVENT_BYTES_MAX_DEFAULT);
    event.check(bytes_max)?;
    let id = event.id.clone().unwrap_or_else(new_id);
    let key = event.order_key();
    let partition = partition_of(key, partitions);
    let text = |text: &Option<onewrite_core::Text>| text.as_ref().map(ToString::to_string);
    let done = sqlx::query(AssertSqlSafe(EMIT))
        .bind(partition)
        .bind(event.time.unwrap_or_else(now).0)
        .bind(id.to_string())
        .bind(event.kind.to_string())
        .bind(event.aggregate_type.to_string())
        .bind(event.aggregate_id.to_string())
        .bind(key.to_string())
        .bind(event.content_type.to_string())
        .bind(event.schema_version)
        .bind(text(&event.source))
        .bind(text(&event.data_schema))
        .bind(text(&event.correlation_id))
        .bind(text(&event.causation_id))
        .bind(text(&event.user_id))
        .bind(text(&event.dedup_key))
        .bind(text(&event.traceparent))
        .bind(row::headers_to(&event.headers))
        .bind(event.data.to_vec())
        .bind(now().0)
        .execute(&mut *tx)
        .await
        .map_err(failed("emit an event"))?;
    Ok(Placed { id, partition, sequence: done.last_insert_rowid().cast_unsigned() })
}

//! Emitting within a `sqlx` transaction.

use onewrite_core::{
    Code, Error, Event, Result, event::EVENT_BYTES_MAX_DEFAULT, inbox::event_binds,
    position::partition_of,
};
use sqlx::{Row, SqliteConnection};

use super::{failed, rows::bound};
use crate::{
    Placed,
    emit::{EMIT, new_id},
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
    let time = event.time.unwrap_or_else(now);
    let columns = event_binds(event, &id, Some(time));
    let binds = [i64::from(partition).into()].into_iter().chain(columns).chain([now().0.into()]);
    let done = bound(EMIT, binds).execute(&mut *tx).await.map_err(failed("emit an event"))?;
    Ok(Placed { id, partition, sequence: done.last_insert_rowid().cast_unsigned() })
}

//! Emitting within a `sqlx` transaction.

use onewrite_core::{Event, Result, Text, inbox::event_binds};
use sqlx::PgConnection;

use super::{failed, rows::bound};
use crate::emit::{emit_statement, new_id};

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
    let mut binds = event_binds(event, &id, event.time);
    // The time is the last one here.
    binds.rotate_left(1);
    bound(EMIT, binds).execute(tx).await.map_err(failed("emit an event"))?;
    Ok(id)
}

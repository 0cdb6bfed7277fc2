//! Emitting within a `sqlx` transaction.

use onewrite_core::{Event, Result, Text};
use sqlx::MySqlConnection;

use super::client::Sqlx;
use crate::emit::{write, write_all};

/// Emits `event` within the transaction that is open on `tx`: it is committed with the caller's own rows or not
/// at all. Pass `&mut *tx`. Returns its id. See [`crate::emit`] for the order of events and its price.
///
/// # Errors
/// As [`crate::emit`].
pub async fn emit(tx: &mut MySqlConnection, event: &Event) -> Result<Text> {
    write(&mut Sqlx(tx), event).await
}

/// Emits several events, in their order, as the last that a transaction does. See [`crate::emit_all`].
///
/// # Errors
/// As [`crate::emit`].
pub async fn emit_all(tx: &mut MySqlConnection, events: &[Event]) -> Result<Vec<Text>> {
    write_all(&mut Sqlx(tx), events).await
}

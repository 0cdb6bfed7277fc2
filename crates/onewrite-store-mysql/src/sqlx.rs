//! Joining the transactions of users who bring `sqlx`.
//!
//! The same statements as for `mysql_async`, run on the user's own open transaction.

use onewrite_core::{Code, Error, Event, Result, Text};
use sqlx::{MySqlConnection, mysql::MySqlDatabaseError};

use crate::{
    emit::{EMIT, LOCK_KEYS, check, new_id, several_keys},
    error::code_of_number,
    row,
};

/// Emits `event` within the transaction that is open on `tx`: it is committed with the caller's own rows or not
/// at all. Pass `&mut *tx`. Returns its id. See [`crate::emit`] for the order of events and its price.
///
/// # Errors
/// As [`crate::emit`].
pub async fn emit(tx: &mut MySqlConnection, event: &Event) -> Result<Text> {
    let id = event.id.clone().unwrap_or_else(new_id);
    check(event, &id)?;
    let option = |text: &Option<Text>| text.as_ref().map(ToString::to_string);
    sqlx::query(EMIT)
        .bind(event.time.map(|time| time.0))
        .bind(id.to_string())
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
        .execute(tx)
        .await
        .map_err(failed("emit an event"))?;
    Ok(id)
}

/// Emits several events, in their order, as the last that a transaction does. See [`crate::emit_all`].
///
/// # Errors
/// As [`crate::emit`].
pub async fn emit_all(tx: &mut MySqlConnection, events: &[Event]) -> Result<Vec<Text>> {
    if let Some(keys) = several_keys(events) {
        let locked = sqlx::query(LOCK_KEYS).bind(keys).execute(&mut *tx).await;
        locked.map_err(failed("lock the events' keys"))?;
    }
    let mut ids = Vec::with_capacity(events.len());
    for event in events {
        ids.push(emit(tx, event).await?);
    }
    Ok(ids)
}

/// What a `sqlx` error means, with `context` saying what was being done.
fn failed(context: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |error| {
        let said = error.as_database_error();
        let said = said.and_then(|said| said.try_downcast_ref::<MySqlDatabaseError>());
        let Some(said) = said else {
            let broken = matches!(error, sqlx::Error::Io(_) | sqlx::Error::Protocol(_));
            let code = if broken { Code::StoreUnreachable } else { Code::Database };
            return Error::new(code, context).with_source(error);
        };
        let state = said.code().unwrap_or_default();
        let code = code_of_number(state, said.number());
        // The schema's own triggers say it better than whoever ran into them.
        match state.starts_with("OW") {
            true => Error::new(code, said.message().to_owned()),
            false => Error::new(code, context).with_source(error),
        }
    }
}

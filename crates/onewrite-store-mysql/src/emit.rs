//! Emitting: a row in the outbox, within whatever transaction is open.

use std::collections::BTreeSet;

use mysql_async::{Params, prelude::Queryable};
use onewrite_core::{Code, Error, Event, Result, Text};

use crate::{client::Client, row};

/// The statement every emitting program runs; the time is in microseconds since 1970, or null for now.
const EMIT: &str = "INSERT INTO onewrite_outbox (time, id, type, aggregatetype, aggregateid, `key`, \
    content_type, schema_version, source, data_schema, correlation_id, causation_id, user_id, dedup_key, traceparent, \
    headers, payload_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// The characters that a name or an id may take, and those of a key or an aggregate's id.
const SHORT_MAX: usize = 255;
const LONG_MAX: usize = 1024;

/// Emits `event` within the transaction that is open on `tx`: it is committed with the caller's own rows or not
/// at all. Returns its id. It gets its place in the log after the commit; the events of a key in the order
/// in which their transactions commit, for the key is locked until then. So emit late. Of two transactions that
/// wait for each other's keys the server ends one: emit events of several keys with [`emit_all`].
///
/// One round trip.
///
/// # Errors
/// [`Code::InvalidEvent`], [`Code::EventTooLarge`], [`Code::SchemaMissing`], [`Code::StoreBusy`] when the server ended
/// the transaction (do it again), or what the database says.
pub async fn emit(tx: &mut impl Queryable, event: &Event) -> Result<Text> {
    write(tx, event).await
}

/// The same for any client.
pub(crate) async fn write(tx: &mut impl Client, event: &Event) -> Result<Text> {
    let id = event.id.clone().unwrap_or_else(new_id);
    check(event, &id)?;
    let values = row::event_values(event, &id, event.time);
    tx.execute(EMIT, Params::Positional(values), "emit an event").await?;
    Ok(id)
}

/// Emits several events, in their order, as the last that a transaction does: their keys are locked first, in
/// an order in which no two transactions that do so wait for each other. Returns their ids.
///
/// A round trip for each event, and one for the keys.
///
/// # Errors
/// As [`emit`].
pub async fn emit_all(tx: &mut impl Queryable, events: &[Event]) -> Result<Vec<Text>> {
    write_all(tx, events).await
}

/// The same for any client.
pub(crate) async fn write_all(tx: &mut impl Client, events: &[Event]) -> Result<Vec<Text>> {
    if let Some(keys) = several_keys(events) {
        tx.execute("CALL onewrite_lock_keys(?)", row::binds![keys], "lock the events' keys")
            .await?;
    }
    let mut ids = Vec::with_capacity(events.len());
    for event in events {
        ids.push(write(tx, event).await?);
    }
    Ok(ids)
}

/// The keys of events, when there are several, as the procedure takes them: a list in JSON.
fn several_keys(events: &[Event]) -> Option<String> {
    let keys: BTreeSet<&str> = events.iter().map(|event| &**event.order_key()).collect();
    (keys.len() > 1).then(|| serde_json::json!(keys).to_string())
}

/// What fits its columns. (The size of the data is checked by the trigger, against the source's own limit.)
pub(crate) fn check(event: &Event, id: &str) -> Result<()> {
    event.check(usize::MAX)?;
    let option = |text: &Option<Text>| text.as_ref().map_or(0, |text| text.chars().count());
    let short = [
        ("id", id.chars().count()),
        ("type", event.kind.chars().count()),
        ("aggregate type", event.aggregate_type.chars().count()),
        ("content type", event.content_type.chars().count()),
        ("correlation id", option(&event.correlation_id)),
        ("causation id", option(&event.causation_id)),
        ("user id", option(&event.user_id)),
        ("dedup key", option(&event.dedup_key)),
        ("traceparent", option(&event.traceparent)),
    ];
    let long = [
        ("aggregate id", event.aggregate_id.chars().count()),
        ("key", event.order_key().chars().count()),
        ("source", option(&event.source)),
        ("data schema", option(&event.data_schema)),
    ];
    let limits = short
        .map(|found| (found, SHORT_MAX))
        .into_iter()
        .chain(long.map(|found| (found, LONG_MAX)));
    for ((name, length), max) in limits {
        if length > max {
            let context = format!("the event's {name} takes more than {max} characters");
            return Err(Error::new(Code::InvalidEvent, context));
        }
    }
    Ok(())
}

/// A fresh UUIDv7: ordered by time, so that an index of ids grows at its end.
pub(crate) fn new_id() -> Text {
    uuid::Uuid::now_v7().to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused() {
        let long = "x".repeat(1025);
        let event = Event::new("T", "Order", long.clone());
        assert_eq!(check(&event, "1").unwrap_err().code(), Code::InvalidEvent);
        assert_eq!(
            check(&Event::new("T", "Order", "1"), &long).unwrap_err().code(),
            Code::InvalidEvent
        );
        check(&Event::new("T", "Order", "ä".repeat(1024)), "1").unwrap();
    }
}

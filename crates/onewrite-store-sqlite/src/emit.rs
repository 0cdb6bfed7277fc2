//! Appending an event to the log, inside the user's own open transaction.

use onewrite_core::{
    Code, Error, Event, Partition, Result, Sequence, Text, Timestamp, position::partition_of,
};
use rusqlite::{Connection, Transaction, params};

use crate::{
    error::{While, database, is_foreign_key},
    guard, row,
    writer::now,
};

/// The statement every emitting program runs; `sql/emit.sql` documents it for other languages.
pub(crate) const EMIT: &str = include_str!("../sql/emit.sql");

/// Where an event was placed. Final once the transaction commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Its id.
    pub id: Text,
    /// Its partition.
    pub partition: Partition,
    /// Its sequence.
    pub sequence: Sequence,
}

/// What `emit` needs to know about the source, read once per connection owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) partitions: u16,
    pub(crate) event_bytes_max: usize,
}

/// Appends `event` to the log within the transaction that is open on `tx`: it is committed with the
/// caller's own rows or not at all. Emit last: it pays the guard's debts of the changes before it. Begin
/// the transaction with `BEGIN IMMEDIATE`: a deferred one that has read can be refused when it writes.
///
/// # Errors
/// [`Code::UnsafeSetting`] outside a transaction or when the connection would acknowledge commits
/// before they reach the disk, [`Code::InvalidEvent`], [`Code::EventTooLarge`],
/// [`Code::SchemaMissing`], or what the database says.
pub fn emit(tx: &Connection, event: &Event) -> Result<Placed> {
    if tx.is_autocommit() {
        return Err(Error::new(
            Code::UnsafeSetting,
            "emit was called outside a transaction: the event would not share the fate of your rows",
        ));
    }
    let synchronous: i64 = tx
        .prepare_cached("PRAGMA synchronous")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .during("read how durable this connection's commits are")?;
    if synchronous < 2 {
        return Err(Error::new(
            Code::UnsafeSetting,
            "this connection runs with `PRAGMA synchronous` below FULL: a power cut could undo what was acknowledged and delivered; set it to FULL",
        ));
    }
    place(tx, event, terms(tx)?)
}

/// Commits the caller's transaction, and says what is missing when the guard refuses it.
///
/// # Errors
/// [`Code::EventForgotten`] when a guarded table changed and no event followed, or what the database
/// says. The transaction is rolled back then.
#[expect(clippy::needless_pass_by_value, reason = "a refused transaction ends here, rolled back")]
pub fn commit(tx: Transaction<'_>) -> Result<()> {
    match tx.execute_batch("COMMIT") {
        Ok(()) => Ok(()),
        // Dropping the transaction rolls it back.
        Err(error) if is_foreign_key(&error) => Err(guard::refusal(&tx, error)),
        Err(error) => {
            let known = database("commit", error);
            match known.code() {
                Code::DiskFull | Code::StoreBusy => Err(known),
                // It may have happened after the commit reached the file.
                _ => Err(Error::new(Code::CommitUnknown, "commit").with_source(known)),
            }
        }
    }
}

pub(crate) fn terms(tx: &Connection) -> Result<Terms> {
    let mut statement = tx
        .prepare_cached(
            "SELECT (SELECT value FROM onewrite_meta WHERE name = 'partitions'),
                    (SELECT value FROM onewrite_meta WHERE name = 'event_bytes_max')",
        )
        .during("read the source's terms")?;
    let (partitions, bytes_max) = statement
        .query_row([], |row| {
            Ok((row.get::<_, Option<String>>(0)?, row.get::<_, Option<String>>(1)?))
        })
        .during("read the source's terms")?;
    let partitions = partitions.and_then(|text| text.parse().ok()).ok_or_else(|| {
        Error::new(Code::SchemaMissing, "onewrite_meta holds no number of partitions")
    })?;
    let event_bytes_max = bytes_max
        .and_then(|text| text.parse().ok())
        .unwrap_or(onewrite_core::event::EVENT_BYTES_MAX_DEFAULT);
    Ok(Terms { partitions, event_bytes_max })
}

/// Appends without looking at the connection's settings: for the store's own writer.
pub(crate) fn place(tx: &Connection, event: &Event, terms: Terms) -> Result<Placed> {
    event.check(terms.event_bytes_max)?;
    let id = event.id.clone().unwrap_or_else(new_id);
    let key = event.order_key();
    let partition = partition_of(key, terms.partitions);
    let placed_at: Timestamp = now();
    let time = event.time.unwrap_or(placed_at);
    let headers = row::headers_to(&event.headers);
    let mut statement = tx.prepare_cached(EMIT).during("emit an event")?;
    let sequence = statement
        .insert(params![
            partition,
            time.0,
            &*id,
            &*event.kind,
            &*event.aggregate_type,
            &*event.aggregate_id,
            &**key,
            &*event.content_type,
            event.schema_version,
            event.source.as_deref(),
            event.data_schema.as_deref(),
            event.correlation_id.as_deref(),
            event.causation_id.as_deref(),
            event.user_id.as_deref(),
            event.dedup_key.as_deref(),
            event.traceparent.as_deref(),
            headers,
            &*event.data,
            placed_at.0,
        ])
        .during("emit an event")?;
    Ok(Placed { id, partition, sequence: sequence.cast_unsigned() })
}

/// A fresh UUIDv7: ordered by time, so that an index of ids grows at its end.
pub(crate) fn new_id() -> Text {
    uuid::Uuid::now_v7().to_string().into()
}

//! A reaction: rows and events that belong together, whoever carries the events away.

use onewrite::{
    Event, Record, other,
    sqlite::rusqlite::{Connection, params},
};

use crate::{Role, order, payment, shipping, stock};

/// Why a service could not react. It is not a business failure: those are events.
pub type ReactionError = onewrite::sqlite::HandlerError;

/// What one service does about one event: writes rows on `tx` and returns the events to emit.
pub type Reaction = fn(tx: &Connection, event: &Event) -> Result<Vec<Event>, ReactionError>;

impl Role {
    /// Its reaction.
    #[must_use]
    pub fn reaction(self) -> Reaction {
        match self {
            Self::Order => order::react,
            Self::Payment => payment::react,
            Self::Stock => stock::react,
            Self::Shipping => shipping::react,
        }
    }

    /// Its tables, and which of them are guarded against forgotten events.
    #[must_use]
    pub const fn tables(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Order => (order::TABLES, &["orders"]),
            Self::Payment => (payment::TABLES, &["payments"]),
            Self::Stock => (stock::TABLES, &["reservations"]),
            Self::Shipping => (shipping::TABLES, &["shipments"]),
        }
    }
}

/// Every committed reaction, for the audit: it has no unique key, so a double effect shows.
pub(crate) const EFFECTS: &str = "CREATE TABLE IF NOT EXISTS effects (
    n INTEGER PRIMARY KEY AUTOINCREMENT, source TEXT, event_id TEXT, key TEXT, sequence INTEGER)";

/// Notes the effect of one event, in the reaction's own transaction.
pub(crate) fn note_effect(tx: &Connection, record: &Record) -> Result<(), onewrite::Error> {
    let sequence = i64::try_from(record.sequence).unwrap_or(i64::MAX);
    tx.prepare_cached(
        "INSERT INTO effects (source, event_id, key, sequence) VALUES (?1, ?2, ?3, ?4)",
    )
    .and_then(|mut statement| {
        statement.execute(params![
            &*record.source,
            record.id(),
            &**record.event.order_key(),
            sequence
        ])
    })
    .map(|_| ())
    .map_err(other)
}

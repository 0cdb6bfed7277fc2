//! A reaction: rows and events that belong together, whoever carries the events away.

use onewrite::{Event, Record};

use crate::{
    ReactionError, Role, order, payment,
    rows::{Rows, Value},
    shipping, stock,
};

impl Role {
    /// What this service does about one event: writes rows and returns the events to emit.
    pub async fn react<R: Rows>(
        self,
        rows: &mut R,
        event: &Event,
    ) -> Result<Vec<Event>, ReactionError> {
        match self {
            Self::Order => order::react(rows, event).await,
            Self::Payment => payment::react(rows, event).await,
            Self::Stock => stock::react(rows, event).await,
            Self::Shipping => shipping::react(rows, event).await,
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

/// The reaction with its note for the audit: what belongs into one commit.
pub(crate) async fn noted<R: Rows>(
    role: Role,
    rows: &mut R,
    record: &Record,
) -> Result<Vec<Event>, ReactionError> {
    let events = role.react(rows, &record.event).await?;
    note_effect(rows, record).await?;
    Ok(events)
}

/// Notes the effect of one event. The table has no unique key, so a double effect shows.
async fn note_effect<R: Rows>(rows: &mut R, record: &Record) -> Result<(), ReactionError> {
    let sequence = i64::try_from(record.sequence).unwrap_or(i64::MAX);
    let key: &str = record.event.order_key();
    note(rows, [(&*record.source).into(), record.id().into(), key.into(), sequence.into()]).await
}

/// Notes an effect: who caused it, its id, its key and its place in the order of its key.
pub(crate) async fn note<R: Rows>(
    rows: &mut R,
    values: [Value<'_>; 4],
) -> Result<(), ReactionError> {
    rows.execute(
        "INSERT INTO effects (source, event_id, event_key, sequence) VALUES ($1, $2, $3, $4)",
        &values,
    )
    .await?;
    Ok(())
}

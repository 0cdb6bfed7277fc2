//! What a handler is given.

use deadpool_postgres::Transaction;
use onewrite_core::{Event, Record, Result, Text};
use tokio_postgres::types::Type;

use crate::{emit, error::While};

/// What a handler is given: the event, and the transaction in which its reaction is committed.
pub struct Context<'a> {
    pub(super) tx: &'a Transaction<'a>,
    pub(super) record: &'a Record,
    pub(super) redriven: bool,
    /// Events to append when the batch ends.
    pub(super) event_bytes_max: usize,
    pub(super) emitted: &'a mut Vec<Event>,
}

impl Context<'_> {
    /// The open transaction: what is written here is committed together with the mark.
    #[must_use]
    pub fn tx(&self) -> &Transaction<'_> {
        self.tx
    }

    /// What happened.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.record.event
    }

    /// What happened, with its place in the source's log.
    #[must_use]
    pub fn record(&self) -> &Record {
        self.record
    }

    /// Whether an operator had this event delivered again.
    #[must_use]
    pub fn is_redriven(&self) -> bool {
        self.redriven
    }

    /// Emits `event` as caused by this one: reacting and emitting are one commit. Returns its id. All
    /// events of a batch are appended together, just before its commit.
    ///
    /// # Errors
    /// [`onewrite_core::Code::InvalidEvent`], [`onewrite_core::Code::EventTooLarge`].
    pub fn emit(&mut self, event: Event) -> Result<Text> {
        let mut event = event.caused_by(&self.record.event);
        event.check(self.event_bytes_max)?;
        let id = event.id.get_or_insert_with(emit::new_id).clone();
        self.emitted.push(event);
        Ok(id)
    }

    /// States why the changes of this reaction need no event.
    ///
    /// # Errors
    /// [`onewrite_core::Code::Database`] for an empty reason.
    pub async fn no_event(&self, reason: &str) -> Result<()> {
        self.tx
            .execute_typed("SELECT onewrite.no_event($1)", &[(&reason, Type::TEXT)])
            .await
            .during("state why no event is needed")
            .map(|_| ())
    }
}

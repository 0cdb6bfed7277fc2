//! What a handler is given.

use mysql_async::Transaction;
use onewrite_core::{Event, Record, Result, Text};

use crate::emit;

/// What a handler is given: the event, and the transaction in which its reaction is committed.
pub struct Context<'a> {
    pub(super) tx: &'a mut Transaction<'static>,
    pub(super) record: &'a Record,
    pub(super) redriven: bool,
    pub(super) event_bytes_max: usize,
    /// Events to emit when the batch ends.
    pub(super) emitted: &'a mut Vec<Event>,
}

impl<'a> Context<'a> {
    /// The open transaction: what is written here is committed together with the mark. It must stay open: a
    /// statement that commits by itself (DDL among others) is noticed when the batch ends, and too late.
    pub fn tx(&mut self) -> &mut Transaction<'static> {
        self.tx
    }

    /// What happened.
    #[must_use]
    pub fn event(&self) -> &'a Event {
        &self.record.event
    }

    /// What happened, with its place in the source's log.
    #[must_use]
    pub fn record(&self) -> &'a Record {
        self.record
    }

    /// Whether an operator had this event delivered again.
    #[must_use]
    pub fn is_redriven(&self) -> bool {
        self.redriven
    }

    /// Emits `event` as caused by this one: reacting and emitting are one commit. Returns its id. All
    /// events of a batch enter the outbox together, just before its commit.
    ///
    /// # Errors
    /// [`onewrite_core::Code::InvalidEvent`], [`onewrite_core::Code::EventTooLarge`].
    pub fn emit(&mut self, event: Event) -> Result<Text> {
        let mut event = event.caused_by(&self.record.event);
        event.check(self.event_bytes_max)?;
        let id = event.id.get_or_insert_with(emit::new_id).clone();
        emit::check(&event, &id)?;
        self.emitted.push(event);
        Ok(id)
    }
}

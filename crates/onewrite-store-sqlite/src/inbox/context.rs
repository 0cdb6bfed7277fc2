//! What a handler is given.

use onewrite_core::{Event, Record, Result};
use rusqlite::Connection;

use crate::emit::{self, Placed};

/// What a handler is given: the event, and the transaction in which its reaction is committed.
pub struct Context<'a> {
    pub(super) tx: &'a Connection,
    pub(super) record: &'a Record,
    pub(super) redriven: bool,
}

impl Context<'_> {
    /// The open transaction: what is written here is committed together with the mark.
    #[must_use]
    pub fn tx(&self) -> &Connection {
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

    /// Emits `event` as caused by this one: reacting and emitting are one commit.
    ///
    /// # Errors
    /// As [`crate::emit`].
    pub fn emit(&self, event: Event) -> Result<Placed> {
        emit::place(self.tx, &event.caused_by(&self.record.event), emit::terms(self.tx)?)
    }

    /// Pays the guard's debts without an event, for a stated reason.
    ///
    /// # Errors
    /// [`onewrite_core::Code::Database`] for an empty reason.
    pub fn no_event(&self, reason: &str) -> Result<()> {
        crate::guard::no_event(self.tx, reason)
    }
}

//! What a handler is given.

use std::ops::Deref;

use onewrite_core::{Event, Result, inbox::Received};
use rusqlite::Connection;

use crate::emit::{self, Placed};

/// What a handler is given: the event ([`Received`]), and the transaction in which its reaction is committed.
pub struct Context<'a> {
    pub(super) tx: &'a Connection,
    pub(super) received: Received<'a>,
}

impl Context<'_> {
    /// The open transaction: what is written here is committed together with the mark.
    #[must_use]
    pub fn tx(&self) -> &Connection {
        self.tx
    }

    /// Emits `event` as caused by this one: reacting and emitting are one commit.
    ///
    /// # Errors
    /// As [`crate::emit`].
    pub fn emit(&self, event: Event) -> Result<Placed> {
        emit::place(self.tx, &event.caused_by(self.received.event()), emit::terms(self.tx)?)
    }

    /// Pays the guard's debts without an event, for a stated reason.
    ///
    /// # Errors
    /// [`onewrite_core::Code::Database`] for an empty reason.
    pub fn no_event(&self, reason: &str) -> Result<()> {
        crate::guard::no_event(self.tx, reason)
    }
}

impl<'a> Deref for Context<'a> {
    type Target = Received<'a>;

    fn deref(&self) -> &Received<'a> {
        &self.received
    }
}

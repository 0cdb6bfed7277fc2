//! What a handler is given.

use std::ops::Deref;

use deadpool_postgres::Transaction;
use onewrite_core::{Event, Result, Text, inbox::Received};
use tokio_postgres::types::Type;

use crate::{emit, error::While};

/// What a handler is given: the event ([`Received`]), and the transaction in which its reaction is committed.
pub struct Context<'a> {
    pub(super) tx: &'a Transaction<'a>,
    pub(super) received: Received<'a>,
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

    /// Emits `event` as caused by this one: reacting and emitting are one commit. Returns its id. All
    /// events of a batch are appended together, just before its commit.
    ///
    /// # Errors
    /// [`onewrite_core::Code::InvalidEvent`], [`onewrite_core::Code::EventTooLarge`].
    pub fn emit(&mut self, event: Event) -> Result<Text> {
        let mut event = event.caused_by(self.received.event());
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

impl<'a> Deref for Context<'a> {
    type Target = Received<'a>;

    fn deref(&self) -> &Received<'a> {
        &self.received
    }
}

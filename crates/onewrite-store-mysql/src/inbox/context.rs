//! What a handler is given.

use std::ops::Deref;

use mysql_async::{Params, Row, Transaction};
use onewrite_core::{
    Event, Result, Text,
    inbox::{Received, caught, coded, refusal},
};

use super::{
    Handler,
    work::{Emitted, Handles},
};
use crate::{
    client::Client,
    commit::Tx,
    error::{code_of, told},
};

/// What a handler is given: the event ([`Received`]), and the transaction in which its reaction is committed.
pub struct Context<'a> {
    tx: &'a mut Transaction<'static>,
    received: Received<'a>,
    emitted: &'a mut Emitted,
}

impl Context<'_> {
    /// The open transaction: what is written here is committed together with the mark. It must stay open: a
    /// statement that commits by itself (DDL among others) is noticed when the batch ends, and too late.
    pub fn tx(&mut self) -> &mut Transaction<'static> {
        self.tx
    }

    /// Emits `event` as caused by this one: reacting and emitting are one commit. Returns its id. All
    /// events of a batch enter the outbox together, just before its commit.
    ///
    /// # Errors
    /// [`onewrite_core::Code::InvalidEvent`], [`onewrite_core::Code::EventTooLarge`].
    pub fn emit(&mut self, event: Event) -> Result<Text> {
        self.emitted.push(event, self.received)
    }
}

impl<'a> Deref for Context<'a> {
    type Target = Received<'a>;

    fn deref(&self) -> &Received<'a> {
        &self.received
    }
}

/// The transaction of a handler.
pub(super) struct Own(pub(super) Transaction<'static>);

impl Client for Own {
    type Row = Row;

    async fn execute(&mut self, sql: &str, binds: Params, context: &str) -> Result<u64> {
        self.0.execute(sql, binds, context).await
    }

    async fn query(&mut self, sql: &str, binds: Params, context: &str) -> Result<Vec<Row>> {
        Client::query(&mut self.0, sql, binds, context).await
    }

    async fn text(&mut self, sql: &str, context: &str) -> Result<Vec<Row>> {
        self.0.text(sql, context).await
    }
}

impl Tx for Own {
    async fn end(self) -> Result<()> {
        self.0.end().await
    }

    async fn undo(self) -> Result<()> {
        self.0.undo().await
    }
}

impl Handles for Own {
    type Handler = Handler;

    async fn run(
        &mut self,
        handler: &Handler,
        received: Received<'_>,
        emitted: &mut Emitted,
    ) -> Result<Option<Text>> {
        let mut context = Context { tx: &mut self.0, received, emitted };
        let handled = caught(|| handler(&mut context)).await;
        let refused = refusal(handled, |error| error.downcast_ref().map(code_of), told)?;
        Ok(refused.map(|reason| coded(&reason)))
    }
}

//! The inbox for handlers that write through `sqlx`, on a connection of the user's pool.

use std::{ops::Deref, sync::Arc};

use onewrite_core::{
    BoxFuture, Delivery, Event, Incarnation, Result, Text,
    broker::{Mark, Receipt},
    inbox::{
        Attempt, Care, Course, HandlerError, Inbox, InboxOptions, LaneState, Policy, Received,
        redrive,
    },
    parking::ParkedKey,
};
use sqlx::{PgConnection, PgPool};

use super::{emit::emit, work::Work};
use crate::{PostgresInbox, PostgresStore};

/// What a handler is given: the event ([`Received`]), and the transaction in which its reaction is committed.
pub struct SqlxContext<'a> {
    pub(super) tx: &'a mut PgConnection,
    pub(super) received: Received<'a>,
}

impl SqlxContext<'_> {
    /// The open transaction: what is written here is committed together with the mark.
    pub fn tx(&mut self) -> &mut PgConnection {
        self.tx
    }

    /// Emits `event` as caused by this one: reacting and emitting are one commit.
    ///
    /// # Errors
    /// As [`super::emit`].
    pub async fn emit(&mut self, event: Event) -> Result<Text> {
        emit(self.tx, &event.caused_by(self.received.event())).await
    }
}

impl<'a> Deref for SqlxContext<'a> {
    type Target = Received<'a>;

    fn deref(&self) -> &Received<'a> {
        &self.received
    }
}

type Handler = dyn for<'a, 'b> Fn(&'a mut SqlxContext<'b>) -> BoxFuture<'a, Result<(), HandlerError>>
    + Send
    + Sync;

/// A consumer's inbox whose handler writes through `sqlx`. Each handler runs in a savepoint.
pub struct SqlxInbox {
    /// Keeps the marks that are read and the attempts that are counted outside the transaction.
    inbox: PostgresInbox,
    pub(super) store: PostgresStore,
    pub(super) pool: PgPool,
    pub(super) handler: Arc<Handler>,
}

impl SqlxInbox {
    /// An inbox in `store` whose `handler` runs for every event, once in effect, on a connection of
    /// `pool`, which must be open on the same database.
    ///
    /// # Errors
    /// As [`PostgresInbox::new`].
    pub fn new(
        store: &PostgresStore,
        pool: PgPool,
        options: InboxOptions,
        handler: impl for<'a, 'b> Fn(&'a mut SqlxContext<'b>) -> BoxFuture<'a, Result<(), HandlerError>>
        + Send
        + Sync
        + 'static,
    ) -> Result<Self> {
        let inbox = PostgresInbox::new(store, options, |_| {
            Box::pin(async { Err("this handler runs through sqlx".into()) })
        })?;
        Ok(Self { inbox, store: store.clone(), pool, handler: Arc::new(handler) })
    }
}

impl Inbox for SqlxInbox {
    fn policy(&self) -> &Policy {
        self.inbox.policy()
    }

    fn attempt(
        &self,
        attempts: Vec<Attempt>,
        again: bool,
    ) -> BoxFuture<'_, Result<Vec<(LaneState, bool)>>> {
        self.inbox.attempt(attempts, again)
    }

    fn receive(
        &self,
        deliveries: Vec<Delivery>,
        attempts: Vec<Attempt>,
    ) -> BoxFuture<'_, Result<Vec<Receipt>>> {
        Box::pin(async move {
            let mut course = Course::new(self.policy(), &deliveries, &attempts, Care::Savepoints);
            loop {
                if let Some(receipts) = course.handle(Work::begin(self).await?).await? {
                    return Ok(receipts);
                }
            }
        })
    }

    fn marks<'a>(&'a self, source: &'a str, life: Incarnation) -> BoxFuture<'a, Result<Vec<Mark>>> {
        self.inbox.marks(source, life)
    }

    fn requested(&self) -> BoxFuture<'_, Result<Vec<ParkedKey>>> {
        self.inbox.requested()
    }

    fn redrive(&self, key: ParkedKey) -> BoxFuture<'_, Result<Result<u64, Text>>> {
        Box::pin(async move { redrive(Work::begin(self).await?, &key).await })
    }

    fn forget(&self) -> BoxFuture<'_, Result<u64>> {
        self.inbox.forget()
    }
}

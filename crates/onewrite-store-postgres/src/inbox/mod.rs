//! The inbox on PostgreSQL: the handler runs in the transaction that moves the mark.

mod context;
mod lanes;
mod work;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use onewrite_core::{
    BoxFuture, Code, Delivery, Incarnation, Result, Text,
    broker::{Mark, Receipt},
    inbox::{
        Attempt, Care, Course, HandlerError, Inbox, InboxOptions, LaneState, Policy, count, redrive,
    },
    parking::{ParkedKey, Request},
    sabotage::Defect,
};
use tokio_postgres::Row;

pub use self::context::Context;
use self::work::{Counting, Work};
#[cfg(feature = "sqlx")]
pub(crate) use self::work::{WENT_ON, owes_an_event};
use crate::{PostgresStore, error::While, parking, row};

/// Reacts to one event with writes on the transaction it is given.
type Handler = dyn for<'a, 'b> Fn(&'a mut Context<'b>) -> BoxFuture<'a, Result<(), HandlerError>>
    + Send
    + Sync;

/// A consumer's inbox with its handler.
pub struct PostgresInbox {
    store: PostgresStore,
    options: InboxOptions,
    handler: Arc<Handler>,
    /// The server was lost while a batch was handled: perhaps an event did it, so attempts are durable.
    wary: AtomicBool,
}

impl PostgresInbox {
    /// An inbox in `store` whose `handler` runs for every event, once in effect.
    ///
    /// # Errors
    /// [`Code::UnsafeSetting`] when ids would be forgotten while a sender may still repeat them.
    pub fn new(
        store: &PostgresStore,
        options: InboxOptions,
        handler: impl for<'a, 'b> Fn(&'a mut Context<'b>) -> BoxFuture<'a, Result<(), HandlerError>>
        + Send
        + Sync
        + 'static,
    ) -> Result<Self> {
        options.check()?;
        let (store, wary) = (store.clone(), AtomicBool::new(false));
        Ok(Self { store, options, handler: Arc::new(handler), wary })
    }

    /// Handles a batch, in as many transactions as it takes.
    async fn handle(&self, deliveries: &[Delivery], attempts: &[Attempt]) -> Result<Vec<Receipt>> {
        let mut course = Course::new(self.policy(), deliveries, attempts, Care::Bold);
        loop {
            let mut client = self.store.work().await?;
            if let Some(receipts) = course.handle(Work::begin(self, &mut client).await?).await? {
                return Ok(receipts);
            }
        }
    }
}

impl Inbox for PostgresInbox {
    fn policy(&self) -> &Policy {
        &self.options.policy
    }

    fn attempt(
        &self,
        attempts: Vec<Attempt>,
        again: bool,
    ) -> BoxFuture<'_, Result<Vec<(LaneState, bool)>>> {
        Box::pin(async move {
            let mut client = self.store.engine().await?;
            let relaxed = !self.wary.load(Ordering::Relaxed);
            let rows = Counting::begin(&mut client, self.policy(), relaxed).await?;
            count(rows, self.policy(), &attempts, again).await
        })
    }

    fn receive(
        &self,
        deliveries: Vec<Delivery>,
        attempts: Vec<Attempt>,
    ) -> BoxFuture<'_, Result<Vec<Receipt>>> {
        Box::pin(async move {
            let handled = self.handle(&deliveries, &attempts).await;
            match &handled {
                Ok(_) => self.wary.store(false, Ordering::Relaxed),
                Err(error) => {
                    let lost = matches!(error.code(), Code::StoreUnreachable | Code::CommitUnknown);
                    self.wary.fetch_or(lost, Ordering::Relaxed);
                }
            }
            handled
        })
    }

    fn marks<'a>(&'a self, source: &'a str, life: Incarnation) -> BoxFuture<'a, Result<Vec<Mark>>> {
        Box::pin(async move {
            let client = self.store.engine().await?;
            let rows = client
                .query(
                    "SELECT partition, sequence, last_id FROM onewrite.inbox
                     WHERE consumer = $1 AND source = $2 AND incarnation = $3 ORDER BY partition",
                    &[&&*self.policy().consumer, &source, &life.to_string()],
                )
                .await
                .during("read the receiver's marks")?;
            let mark = |found: &Row| {
                Ok(Mark {
                    partition: row::partition(found, 0)?,
                    sequence: row::number(found, 1)?,
                    last_id: row::text(found, 2)?,
                })
            };
            rows.iter().map(mark).collect()
        })
    }

    fn requested(&self) -> BoxFuture<'_, Result<Vec<ParkedKey>>> {
        Box::pin(async move {
            let scope = self.policy().scope();
            let client = self.store.engine().await?;
            let mut keys = parking::keys(&client, Some(&scope)).await?;
            keys.retain(|key| key.request != Request::Wait);
            Ok(keys)
        })
    }

    fn redrive(&self, key: ParkedKey) -> BoxFuture<'_, Result<Result<u64, Text>>> {
        Box::pin(async move {
            let mut client = self.store.work().await?;
            redrive(Work::begin(self, &mut client).await?, &key).await
        })
    }

    fn forget(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            let forgets = self.policy().sabotage.has(Defect::ForgetIds);
            let kept = if forgets { Duration::ZERO } else { self.options.id_retention };
            let client = self.store.engine().await?;
            client
                .execute(
                    "DELETE FROM onewrite.inbox_id WHERE consumer = $1 AND seen_at <= statement_timestamp() - make_interval(secs => $2)",
                    &[&&*self.policy().consumer, &kept.as_secs_f64()],
                )
                .await
                .during("forget old ids")
        })
    }
}

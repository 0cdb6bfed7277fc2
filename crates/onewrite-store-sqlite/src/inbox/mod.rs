//! The inbox on SQLite: the handler runs on the store's writer, in the transaction that moves the mark.

mod context;
mod work;

use std::{sync::Arc, time::Duration};

use onewrite_core::{
    BoxFuture, Delivery, Incarnation, Result, Text,
    broker::{Mark, Receipt},
    inbox::{
        Attempt, Care, Course, HandlerError, Inbox, InboxOptions, Lane, LaneState, Policy, at_once,
        count, mark_first, redrive,
    },
    parking::{ParkedKey, Request},
    sabotage::Defect,
    store::Durability,
};
use rusqlite::{Connection, params};

pub use self::context::Context;
use self::work::{Counting, Work};
use crate::{SqliteStore, claim::execute, error::While, parking, writer::now};

/// Reacts to one event with writes on the transaction it is given.
type Handler = dyn Fn(&Context<'_>) -> Result<(), HandlerError> + Send + Sync;

/// A consumer's inbox with its handler.
pub struct SqliteInbox {
    store: SqliteStore,
    options: InboxOptions,
    handler: Arc<Handler>,
}

impl SqliteInbox {
    /// An inbox in `store` whose `handler` runs for every event, once in effect.
    ///
    /// # Errors
    /// [`onewrite_core::Code::UnsafeSetting`] when ids would be forgotten while a sender may still repeat them.
    pub fn new(
        store: &SqliteStore,
        options: InboxOptions,
        handler: impl Fn(&Context<'_>) -> Result<(), HandlerError> + Send + Sync + 'static,
    ) -> Result<Self> {
        options.check()?;
        Ok(Self { store: store.clone(), options, handler: Arc::new(handler) })
    }

    /// With [`Defect::MarkBeforeEffect`]: moves the marks now.
    async fn marked(&self, deliveries: &[Delivery]) -> Result<Option<Vec<(Lane, LaneState)>>> {
        let policy = self.options.policy.clone();
        if !policy.sabotage.has(Defect::MarkBeforeEffect) {
            return Ok(None);
        }
        let deliveries = deliveries.to_vec();
        let first = move |tx: &Connection| {
            at_once(mark_first(Counting { tx, policy: &policy }, &deliveries))
        };
        self.store.engine_write(Durability::Durable, first).await.map(Some)
    }
}

impl Inbox for SqliteInbox {
    fn policy(&self) -> &Policy {
        &self.options.policy
    }

    fn attempt(
        &self,
        attempts: Vec<Attempt>,
        again: bool,
    ) -> BoxFuture<'_, Result<Vec<(LaneState, bool)>>> {
        let policy = self.options.policy.clone();
        Box::pin(self.store.engine_write(Durability::Relaxed, move |tx| {
            at_once(count(Counting { tx, policy: &policy }, &policy, &attempts, again))
        }))
    }

    fn receive(
        &self,
        deliveries: Vec<Delivery>,
        attempts: Vec<Attempt>,
    ) -> BoxFuture<'_, Result<Vec<Receipt>>> {
        let policy = self.options.policy.clone();
        let handler = Arc::clone(&self.handler);
        Box::pin(async move {
            let marked = self.marked(&deliveries).await?;
            let work = move |tx: &Connection| {
                let course = Course::new(&policy, &deliveries, &attempts, Care::Savepoints);
                let mut course = course.marked(marked.clone());
                loop {
                    let work = Work::new(tx, &policy, &*handler);
                    if let Some(receipts) = at_once(course.handle(work))? {
                        return Ok(receipts);
                    }
                }
            };
            self.store.engine_write(Durability::Durable, work).await
        })
    }

    fn marks<'a>(&'a self, source: &'a str, life: Incarnation) -> BoxFuture<'a, Result<Vec<Mark>>> {
        let (consumer, source) = (self.options.policy.consumer.clone(), source.to_owned());
        Box::pin(
            self.store.engine_read(move |connection| marks(connection, &consumer, &source, life)),
        )
    }

    fn requested(&self) -> BoxFuture<'_, Result<Vec<ParkedKey>>> {
        let scope = self.options.policy.scope();
        Box::pin(self.store.engine_read(move |connection| {
            let mut keys = parking::keys(connection, Some(&scope))?;
            keys.retain(|key| key.request != Request::Wait);
            Ok(keys)
        }))
    }

    fn redrive(&self, key: ParkedKey) -> BoxFuture<'_, Result<Result<u64, Text>>> {
        let handler = Arc::clone(&self.handler);
        let policy = self.options.policy.clone();
        Box::pin(self.store.engine_write(Durability::Durable, move |tx| {
            at_once(redrive(Work::new(tx, &policy, &*handler), &key))
        }))
    }

    fn forget(&self) -> BoxFuture<'_, Result<u64>> {
        let policy = self.options.policy.clone();
        let retention = self.options.id_retention;
        Box::pin(self.store.engine_write(Durability::Relaxed, move |tx| {
            let kept =
                if policy.sabotage.has(Defect::ForgetIds) { Duration::ZERO } else { retention };
            let before =
                now().0.saturating_sub(i64::try_from(kept.as_micros()).unwrap_or(i64::MAX));
            execute(
                tx,
                "DELETE FROM onewrite_inbox_id WHERE consumer = ?1 AND seen_at <= ?2",
                params![&*policy.consumer, before],
            )
        }))
    }
}

fn marks(
    connection: &Connection,
    consumer: &str,
    source: &str,
    life: Incarnation,
) -> Result<Vec<Mark>> {
    let mut statement = connection
        .prepare_cached(
            "SELECT partition, sequence, last_id FROM onewrite_inbox WHERE consumer = ?1 AND source = ?2 AND incarnation = ?3 ORDER BY partition",
        )
        .during("read the receiver's marks")?;
    statement
        .query_map(params![consumer, source, life.to_string()], |row| {
            Ok(Mark {
                partition: row.get(0)?,
                sequence: row.get::<_, i64>(1)?.cast_unsigned(),
                last_id: row.get::<_, String>(2)?.into(),
            })
        })
        .and_then(Iterator::collect)
        .during("read the receiver's marks")
}

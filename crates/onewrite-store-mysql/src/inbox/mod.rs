//! The inbox on MariaDB and MySQL: the handler runs in the transaction that moves the mark.

mod context;
mod lanes;
pub(crate) mod work;

use std::{sync::Arc, time::Duration};

use mysql_async::Row;
use onewrite_core::{
    BoxFuture, Code, Delivery, Error, Incarnation, Result, Text,
    broker::{Mark, Receipt},
    inbox::{
        Attempt, Care, Course, HandlerError, Inbox, InboxOptions, LaneState, Policy, count, redrive,
    },
    parking::{ParkedKey, Request},
    sabotage::Defect,
};

pub use self::context::Context;
use self::context::Own;
use self::work::{Counting, Work};
use crate::{
    MysqlStore, parking,
    row::{self, began, binds, execute, query},
};

/// Reacts to one event with writes on the transaction it is given.
type Handler = dyn for<'a, 'b> Fn(&'a mut Context<'b>) -> BoxFuture<'a, Result<(), HandlerError>>
    + Send
    + Sync;

/// A consumer's inbox with its handler.
pub struct MysqlInbox {
    store: MysqlStore,
    options: InboxOptions,
    handler: Arc<Handler>,
}

/// The longest name of a consumer, in characters.
const NAME_MAX: usize = 200;

impl MysqlInbox {
    /// An inbox in `store` whose `handler` runs for every event, once in effect.
    ///
    /// # Errors
    /// [`Code::UnsafeSetting`] when ids would be forgotten while a sender may still repeat them;
    /// [`Code::InvalidConfig`] for a consumer's name that does not fit.
    pub fn new(
        store: &MysqlStore,
        options: InboxOptions,
        handler: impl for<'a, 'b> Fn(&'a mut Context<'b>) -> BoxFuture<'a, Result<(), HandlerError>>
        + Send
        + Sync
        + 'static,
    ) -> Result<Self> {
        options.check()?;
        if options.policy.consumer.chars().count() > NAME_MAX {
            let context = format!("a consumer's name takes at most {NAME_MAX} characters");
            return Err(Error::new(Code::InvalidConfig, context));
        }
        Ok(Self { store: store.clone(), options, handler: Arc::new(handler) })
    }

    async fn begin(&self) -> Result<Work<'_, Own>> {
        let (tx, bytes_max) = (Own(self.store.begin().await?), self.store.event_bytes_max());
        Ok(Work::new(tx, &self.options.policy, &*self.handler, bytes_max))
    }
}

impl Inbox for MysqlInbox {
    fn policy(&self) -> &Policy {
        &self.options.policy
    }

    fn attempt(
        &self,
        attempts: Vec<Attempt>,
        again: bool,
    ) -> BoxFuture<'_, Result<Vec<(LaneState, bool)>>> {
        Box::pin(async move {
            let mut conn = self.store.engine().await?;
            let rows = Counting::begin(&mut conn, self.policy()).await?;
            count(rows, self.policy(), &attempts, again).await
        })
    }

    fn receive(
        &self,
        deliveries: Vec<Delivery>,
        attempts: Vec<Attempt>,
    ) -> BoxFuture<'_, Result<Vec<Receipt>>> {
        Box::pin(async move {
            let mut course = Course::new(self.policy(), &deliveries, &attempts, Care::Bold);
            loop {
                if let Some(receipts) = course.handle(self.begin().await?).await? {
                    return Ok(receipts);
                }
            }
        })
    }

    fn marks<'a>(&'a self, source: &'a str, life: Incarnation) -> BoxFuture<'a, Result<Vec<Mark>>> {
        Box::pin(async move {
            let mut conn = self.store.engine().await?;
            let sql = "SELECT `partition`, sequence, last_id FROM onewrite_inbox
                 WHERE consumer = ? AND source = ? AND incarnation = ? ORDER BY `partition`";
            let binds = binds![&*self.policy().consumer, source, life.to_string()];
            let mark = |mut found: Row| {
                let found = &mut found;
                Ok(Mark {
                    partition: row::get(found, 0)?,
                    sequence: row::number(found, 1)?,
                    last_id: row::text(found, 2)?,
                })
            };
            query(&mut conn, sql, binds).await?.into_iter().map(mark).collect()
        })
    }

    fn requested(&self) -> BoxFuture<'_, Result<Vec<ParkedKey>>> {
        Box::pin(async move {
            let scope = self.policy().scope();
            let mut keys = parking::keys(&mut self.store.engine().await?, Some(&scope)).await?;
            keys.retain(|key| key.request != Request::Wait);
            Ok(keys)
        })
    }

    fn redrive(&self, key: ParkedKey) -> BoxFuture<'_, Result<Result<u64, Text>>> {
        Box::pin(async move { redrive(self.begin().await?, &key).await })
    }

    fn forget(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            let forgets = self.policy().sabotage.has(Defect::ForgetIds);
            let kept = if forgets { Duration::ZERO } else { self.options.id_retention };
            let kept = i64::try_from(kept.as_micros()).unwrap_or(i64::MAX);
            let sql = concat!(
                "DELETE FROM onewrite_inbox_id WHERE consumer = ? AND seen_at <= ",
                began!(),
                " - ?"
            );
            execute(&mut self.store.engine().await?, sql, binds![&*self.policy().consumer, kept])
                .await
        })
    }
}

//! The inbox for handlers that write through `sqlx`.

use std::{ops::Deref, sync::Arc};

use mysql_async::Params;
use onewrite_core::{
    BoxFuture, Delivery, Event, Incarnation, Result, Text,
    broker::{Mark, Receipt},
    inbox::{
        Attempt, Care, Course, HandlerError, Inbox, InboxOptions, LaneState, Policy, Received,
        caught, coded, redrive, refusal,
    },
    parking::ParkedKey,
};
use sqlx::{
    AssertSqlSafe, Executor as _, MySql, MySqlConnection, MySqlPool, Transaction,
    mysql::{MySqlPoolOptions, MySqlRow},
};

use super::{after_commit, client::Sqlx, code_of, failed};
use crate::{
    MysqlInbox, MysqlStore,
    client::Client,
    commit::{self, Tx},
    inbox::work::{Emitted, Handles, Work},
};

/// What a handler is given: the event ([`Received`]), and the transaction in which its reaction is committed.
pub struct SqlxContext<'a> {
    tx: &'a mut MySqlConnection,
    received: Received<'a>,
    emitted: &'a mut Emitted,
}

impl SqlxContext<'_> {
    /// The open transaction: what is written here is committed together with the mark. It must stay open: a
    /// statement that commits by itself (DDL among others) is noticed when the batch ends, and too late.
    pub fn tx(&mut self) -> &mut MySqlConnection {
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

impl<'a> Deref for SqlxContext<'a> {
    type Target = Received<'a>;

    fn deref(&self) -> &Received<'a> {
        &self.received
    }
}

type Handler = dyn for<'a, 'b> Fn(&'a mut SqlxContext<'b>) -> BoxFuture<'a, Result<(), HandlerError>>
    + Send
    + Sync;

/// A consumer's inbox whose handler writes through `sqlx`.
pub struct SqlxInbox {
    /// Keeps the marks that are read and the attempts that are counted outside the transaction.
    inbox: MysqlInbox,
    store: MysqlStore,
    pool: MySqlPool,
    handler: Arc<Handler>,
}

impl SqlxInbox {
    /// An inbox in `store` whose `handler` runs for every event, once in effect, on connections that are made
    /// with the options of `pool`, which must be those of the same database.
    ///
    /// They are connections of the inbox's own, for their sessions are not those of other work: nothing is
    /// committed by itself there, so that what a handler writes after the server has undone its transaction
    /// is undone as well. What `pool` does after it connects is not done with them. To be called within a
    /// runtime of `tokio`.
    ///
    /// # Errors
    /// As [`MysqlInbox::new`].
    pub fn new(
        store: &MysqlStore,
        pool: &MySqlPool,
        options: InboxOptions,
        handler: impl for<'a, 'b> Fn(&'a mut SqlxContext<'b>) -> BoxFuture<'a, Result<(), HandlerError>>
        + Send
        + Sync
        + 'static,
    ) -> Result<Self> {
        let inbox = MysqlInbox::new(store, options, |_| {
            Box::pin(async { Err("this handler runs through sqlx".into()) })
        })?;
        let (store, pool) = (store.clone(), own_pool(store, pool));
        Ok(Self { inbox, store, pool, handler: Arc::new(handler) })
    }

    async fn begin(&self) -> Result<Work<'_, SqlxTx>> {
        let begun = self.pool.begin_with("START TRANSACTION").await;
        let mut tx = SqlxTx(begun.map_err(|error| failed("begin a transaction", error))?);
        tx.text(commit::BEGUN, "begin a transaction").await?;
        Ok(Work::new(tx, self.inbox.policy(), &*self.handler, self.store.event_bytes_max()))
    }
}

/// A pool with the options of `like`, whose sessions are those of the store that handlers run in.
fn own_pool(store: &MysqlStore, like: &MySqlPool) -> MySqlPool {
    let settings = Arc::new(store.work_settings());
    let options = MySqlPoolOptions::new().max_connections(like.options().get_max_connections());
    let options = options.after_connect(move |conn, _| {
        let settings = Arc::clone(&settings);
        Box::pin(async move {
            for setting in settings.iter() {
                conn.execute(AssertSqlSafe(setting.as_str())).await?;
            }
            Ok(())
        })
    });
    options.connect_lazy_with((*like.connect_options()).clone())
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
            let mut course = Course::new(self.policy(), &deliveries, &attempts, Care::Bold);
            loop {
                if let Some(receipts) = course.handle(self.begin().await?).await? {
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
        Box::pin(async move { redrive(self.begin().await?, &key).await })
    }

    fn forget(&self) -> BoxFuture<'_, Result<u64>> {
        self.inbox.forget()
    }
}

/// The transaction of a handler.
struct SqlxTx(Transaction<'static, MySql>);

impl Client for SqlxTx {
    type Row = MySqlRow;

    async fn execute(&mut self, sql: &str, binds: Params, context: &str) -> Result<u64> {
        Sqlx(&mut self.0).execute(sql, binds, context).await
    }

    async fn query(&mut self, sql: &str, binds: Params, context: &str) -> Result<Vec<MySqlRow>> {
        Sqlx(&mut self.0).query(sql, binds, context).await
    }

    async fn text(&mut self, sql: &str, context: &str) -> Result<Vec<MySqlRow>> {
        Sqlx(&mut self.0).text(sql, context).await
    }
}

impl Tx for SqlxTx {
    async fn end(self) -> Result<()> {
        self.0.commit().await.map_err(after_commit)
    }

    async fn undo(self) -> Result<()> {
        self.0.rollback().await.map_err(|error| failed("undo a transaction", error))
    }
}

impl Handles for SqlxTx {
    type Handler = Handler;

    async fn run(
        &mut self,
        handler: &Handler,
        received: Received<'_>,
        emitted: &mut Emitted,
    ) -> Result<Option<Text>> {
        let mut context = SqlxContext { tx: &mut self.0, received, emitted };
        let handled = caught(|| handler(&mut context)).await;
        let code = |error: &(dyn std::error::Error + 'static)| error.downcast_ref().map(code_of);
        Ok(refusal(handled, code, ToString::to_string)?.map(|reason| coded(&reason)))
    }
}

//! The store's handle: what a service opens once and shares.

use std::sync::{
    Arc, RwLock,
    atomic::{AtomicU64, Ordering},
};

use mysql_async::{Conn, Pool, Transaction, TxOpts, prelude::Queryable};
use onewrite_core::{
    BoxFuture, Partition, Result, Sequence, Text, Timestamp,
    flow::Trace,
    inbox::Gap,
    parking::{ParkedKey, ParkedRecord},
    position::Source,
    sabotage::Defect,
    saga::{
        Json,
        journal::{Arrived, FindSagas, Journal, ListSagas, SagaHead, SavedSaga},
    },
    store::{
        Batch, Claim, Claimed, Cursor, Find, Item, LeaseState, Op, Outcome, Page, Read, SinkState,
        Store, Watch,
    },
};

use crate::{
    Options, claim, commit,
    connect::{Use, WAIT},
    error::{While, after_commit},
    find, gap, parking, place, read,
    row::{self, binds, now},
    saga,
    schema::{self, Server},
    signal, trim,
    wake::LogWatch,
};

/// An open MariaDB or MySQL store. Cheap to clone; the last clone closes its connections.
#[derive(Clone)]
pub struct MysqlStore {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    engine: Pool,
    work: Pool,
    #[cfg(feature = "sqlx")]
    is_mariadb: bool,
    source: RwLock<Source>,
    event_bytes_max: usize,
    /// Everything up to this sequence is on disk for certain.
    durable: AtomicU64,
}

impl MysqlStore {
    /// Connects, brings the schema up to date and checks the database's identity.
    ///
    /// # Errors
    /// `StoreUnreachable`, `InvalidConfig`, `SchemaMissing`, `SchemaUnsupported`, `StoreCopied`,
    /// `ReadOnly`, or what the database says.
    pub async fn open(options: Options) -> Result<Self> {
        let mut conn = options.connect().await?;
        let server = Server::ask(&mut conn).await?;
        // Its settings are those of the pool's from here on.
        conn.disconnect().await.during("close a connection")?;
        let engine = options.pool(Use::Engine, server.is_mariadb);
        let work = options.pool(Use::Work, server.is_mariadb);
        let mut conn = options.within(WAIT, engine.get_conn()).await?;
        #[cfg(feature = "sqlx")]
        let is_mariadb = server.is_mariadb;
        let source = schema::open(&mut conn, server, &options).await?;
        let event_bytes_max = schema::event_bytes_max(&mut conn).await?;
        drop(conn);
        let (source, durable) = (RwLock::new(source), AtomicU64::new(0));
        let inner = Inner {
            options,
            engine,
            work,
            #[cfg(feature = "sqlx")]
            is_mariadb,
            source,
            event_bytes_max,
            durable,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Runs `work` in a transaction and returns once it is durable.
    ///
    /// # Errors
    /// What `work` returns, or what the commit says; `CommitUnknown` when its outcome is not known.
    pub async fn write<T, F>(&self, work: F) -> Result<T>
    where
        F: for<'t> FnOnce(&'t mut Transaction<'static>) -> BoxFuture<'t, Result<T>>,
    {
        let mut tx = self.begin().await?;
        let value = work(&mut tx).await?;
        commit::finish_work(tx, self.options().sabotage).await?;
        Ok(value)
    }

    /// What makes a session one that handlers run in.
    #[cfg(feature = "sqlx")]
    pub(crate) fn work_settings(&self) -> Vec<String> {
        crate::connect::settings(Use::Work, self.inner.is_mariadb)
    }

    /// A transaction on a connection of the pool that handlers run on.
    pub(crate) async fn begin(&self) -> Result<Transaction<'static>> {
        let beginning = self.inner.work.start_transaction(TxOpts::default());
        let mut tx = self.inner.options.within(WAIT, beginning).await?;
        tx.query_drop(commit::BEGUN).await.during("begin a transaction")?;
        Ok(tx)
    }

    pub(crate) async fn engine(&self) -> Result<Conn> {
        self.inner.options.within(WAIT, self.inner.engine.get_conn()).await
    }

    /// The options it was opened with.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// The bytes that an event's data may take, as they were when it was opened.
    pub(crate) fn event_bytes_max(&self) -> usize {
        self.inner.event_bytes_max
    }

    /// What the write door needs to know.
    pub(crate) fn terms<'a>(&self, source: &'a Source) -> commit::Terms<'a> {
        let (event_bytes_max, sabotage) = (self.event_bytes_max(), self.options().sabotage);
        commit::Terms { source, event_bytes_max, sabotage }
    }

    pub(crate) fn current_source(&self) -> Source {
        self.inner.source.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn learn(&self, source: Source) {
        *self.inner.source.write().unwrap_or_else(std::sync::PoisonError::into_inner) = source;
    }

    /// Places what is committed, so that the log holds it.
    async fn place(&self, conn: &mut Conn, partitions: u16) -> Result<()> {
        if let Some(placed) = place::place(conn, partitions, self.options().sabotage).await? {
            self.inner.durable.fetch_max(placed, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reads a page of what is on disk. A commit is seen by others a moment before it is there, and what a
    /// relay delivers must not be undone by a crash; a commit of one's own brings all before it to the
    /// disk.
    async fn page(&self, request: &Read) -> Result<Page> {
        let mut conn = self.engine().await?;
        let known = self.current_source();
        if request.after.is_empty() {
            return Ok(Page::default());
        }
        self.place(&mut conn, known.partitions).await?;
        let sabotage = self.options().sabotage;
        let (source, page) = read::page(&mut conn, known.partitions, request, sabotage).await?;
        let last = page.records.iter().map(|record| record.sequence).max().unwrap_or(0);
        let synced = last <= self.inner.durable.load(Ordering::Relaxed);
        if !synced && !sabotage.has(Defect::DeliverUnsynced) {
            let flush = "UPDATE onewrite_flush SET n = n + 1";
            conn.query_drop(flush).await.map_err(after_commit)?;
            self.inner.durable.fetch_max(last, Ordering::Relaxed);
        }
        if source != known {
            self.learn(source);
        }
        Ok(page)
    }
}

/// Whether a batch depends on what the log holds: what waits in the outbox is placed before.
fn looks_at_the_log(items: &[Item]) -> bool {
    let mut ops = items.iter().flat_map(|item| &item.ops);
    ops.any(|op| matches!(op, Op::Subscribe { .. } | Op::Trim { .. }))
}

impl Store for MysqlStore {
    fn source(&self) -> Source {
        self.current_source()
    }

    fn now(&self) -> BoxFuture<'_, Result<Timestamp>> {
        Box::pin(async {
            let mut conn = self.engine().await?;
            let found = row::query_one(&mut conn, concat!("SELECT ", now!()), binds![]).await?;
            let now = found.map(|mut found| row::time(&mut found, 0)).transpose()?;
            Ok(now.flatten().unwrap_or_default())
        })
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Outcome>>> {
        Box::pin(async move {
            let mut conn = self.engine().await?;
            let source = &self.current_source();
            if looks_at_the_log(&batch.items) {
                self.place(&mut conn, source.partitions).await?;
            }
            commit::batch(&mut conn, &self.terms(source), &batch.items).await
        })
    }

    fn watch(&self) -> Box<dyn Watch> {
        Box::new(LogWatch::new(self.clone()))
    }

    fn claim(&self, request: Claim) -> BoxFuture<'_, Result<Claimed>> {
        Box::pin(async move { claim::claim(&mut self.engine().await?, &request).await })
    }

    fn cursors<'a>(&'a self, sink: &'a str) -> BoxFuture<'a, Result<Vec<Cursor>>> {
        Box::pin(async move { read::cursors(&mut self.engine().await?, sink).await })
    }

    fn read(&self, request: Read) -> BoxFuture<'_, Result<Page>> {
        Box::pin(async move { self.page(&request).await })
    }

    fn id_at(&self, _: Partition, sequence: Sequence) -> BoxFuture<'_, Result<Option<Text>>> {
        Box::pin(async move { read::id_at(&mut self.engine().await?, sequence).await })
    }

    fn head(&self) -> BoxFuture<'_, Result<Sequence>> {
        Box::pin(async { schema::head(&mut self.engine().await?).await })
    }

    fn trimmed(&self) -> BoxFuture<'_, Result<Vec<(Partition, Sequence)>>> {
        Box::pin(async { read::trimmed(&mut self.engine().await?).await })
    }

    fn sinks(&self) -> BoxFuture<'_, Result<Vec<SinkState>>> {
        Box::pin(async {
            let mut conn = self.engine().await?;
            // What waits in the outbox is behind as well.
            self.place(&mut conn, self.current_source().partitions).await?;
            trim::sinks(&mut conn).await
        })
    }

    fn leases(&self) -> BoxFuture<'_, Result<Vec<LeaseState>>> {
        Box::pin(async { claim::leases(&mut self.engine().await?).await })
    }

    fn parked_keys<'a>(&'a self, scope: Option<&'a str>) -> BoxFuture<'a, Result<Vec<ParkedKey>>> {
        Box::pin(async move { parking::keys(&mut self.engine().await?, scope).await })
    }

    fn parked_records<'a>(
        &'a self,
        key: &'a ParkedKey,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<ParkedRecord>>> {
        Box::pin(async move { parking::records(&mut self.engine().await?, key, limit).await })
    }

    fn guards(&self) -> BoxFuture<'_, Result<Vec<Text>>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn warnings(&self) -> BoxFuture<'_, Result<Vec<Text>>> {
        Box::pin(async { schema::warnings(&mut self.engine().await?).await })
    }

    fn gaps(&self) -> BoxFuture<'_, Result<Vec<Gap>>> {
        Box::pin(async { gap::gaps(&mut self.engine().await?).await })
    }

    fn find(&self, what: Find) -> BoxFuture<'_, Result<Vec<Trace>>> {
        Box::pin(async move {
            let mut conn = self.engine().await?;
            let source = self.current_source();
            self.place(&mut conn, source.partitions).await?;
            find::find(&mut conn, &source.name, &what).await
        })
    }

    fn trim_max(&self) -> u32 {
        5_000
    }
}

impl Journal for MysqlStore {
    fn sagas(&self, find: FindSagas) -> BoxFuture<'_, Result<Vec<SavedSaga>>> {
        Box::pin(async move { saga::find(&mut self.engine().await?, &find).await })
    }

    fn list<'a>(&'a self, which: &'a ListSagas) -> BoxFuture<'a, Result<Vec<SagaHead>>> {
        Box::pin(async move {
            saga::heads(&mut self.engine().await?, which, self.inner.options.sabotage).await
        })
    }

    fn arrived(
        &self,
        partitions: Vec<Partition>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Arrived>>> {
        Box::pin(
            async move { signal::arrived(&mut self.engine().await?, &partitions, limit).await },
        )
    }

    fn signals<'a>(
        &'a self,
        name: &'a str,
        about: Vec<Text>,
    ) -> BoxFuture<'a, Result<Vec<(Text, Json)>>> {
        Box::pin(async move { signal::about(&mut self.engine().await?, name, &about).await })
    }

    fn definition<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Text>>> {
        Box::pin(async move { saga::definition(&mut self.engine().await?, id).await })
    }
}

//! The store's handle: what a service opens once and shares.

use std::sync::{Arc, RwLock};

use deadpool_postgres::{Client, Pool, Transaction};
use onewrite_core::{
    BoxFuture, Partition, Result, Sequence, Text, Timestamp,
    flow::Trace,
    inbox::Gap,
    parking::{ParkedKey, ParkedRecord},
    position::Source,
    saga::{
        Json,
        journal::{Arrived, FindSagas, Journal, ListSagas, SagaHead, SavedSaga},
    },
    store::{
        Batch, Claim, Claimed, Cursor, Find, LeaseState, Outcome, Page, Read, SinkState, Store,
        Watch,
    },
};

use crate::{
    Options, claim, commit,
    connect::Use,
    error::{While, no_connection},
    find, gap, guard, parking, read, row, saga, schema, signal, trim,
    wake::{Listener, LogWatch},
};

/// An open PostgreSQL store. Cheap to clone; the last clone closes its connections.
#[derive(Clone)]
pub struct PostgresStore {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    engine: Pool,
    work: Pool,
    source: RwLock<Source>,
    listener: Listener,
    event_bytes_max: usize,
}

impl PostgresStore {
    /// Connects, brings the schema up to date and checks the database's identity.
    ///
    /// # Errors
    /// `StoreUnreachable`, `InvalidConfig`, `SchemaMissing`, `SchemaUnsupported`, `StoreCopied`,
    /// `ReadOnly` (a standby), or what the database says.
    pub async fn open(options: Options) -> Result<Self> {
        let engine = options.pool(Use::Engine)?;
        let work = options.pool(Use::Work)?;
        let mut client = connection(&engine, &options).await?;
        let source = schema::open(&mut client, &options).await?;
        let event_bytes_max = schema::event_bytes_max(&client).await?;
        drop(client);
        let (source, listener) = (RwLock::new(source), Listener::new());
        let inner = Inner { options, engine, work, source, listener, event_bytes_max };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Runs `work` in a transaction and returns once it is durable.
    ///
    /// # Errors
    /// What `work` returns, `EventForgotten` from the guard, or what the commit says;
    /// `CommitUnknown` when its outcome is not known.
    pub async fn write<T, F>(&self, work: F) -> Result<T>
    where
        F: for<'t> FnOnce(&'t Transaction<'t>) -> BoxFuture<'t, Result<T>>,
    {
        let mut client = self.work().await?;
        let tx = client.transaction().await.during("begin a write")?;
        let value = work(&tx).await?;
        commit::finish(tx).await?;
        Ok(value)
    }

    /// A connection of the pool that handlers run on.
    ///
    /// # Errors
    /// `StoreUnreachable` when there is none.
    pub async fn work(&self) -> Result<Client> {
        connection(&self.inner.work, self.options()).await
    }

    pub(crate) async fn engine(&self) -> Result<Client> {
        connection(&self.inner.engine, self.options()).await
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

    pub(crate) fn listener(&self) -> &Listener {
        &self.inner.listener
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
}

fn connection<'a>(pool: &'a Pool, options: &'a Options) -> BoxFuture<'a, Result<Client>> {
    let failed = |error| no_connection(&options.place(), error);
    Box::pin(async move { pool.get().await.map_err(failed) })
}

impl Store for PostgresStore {
    fn source(&self) -> Source {
        self.current_source()
    }

    fn now(&self) -> BoxFuture<'_, Result<Timestamp>> {
        Box::pin(async {
            let client = self.engine().await?;
            let statement = client
                .prepare_cached("SELECT clock_timestamp()")
                .await
                .during("read the store's clock")?;
            let found = client.query_one(&statement, &[]).await.during("read the store's clock")?;
            Ok(row::time(&found, 0)?.unwrap_or_default())
        })
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Outcome>>> {
        Box::pin(async move {
            let mut client = self.engine().await?;
            let source = self.current_source();
            commit::batch(&mut client, &self.terms(&source), batch).await
        })
    }

    fn watch(&self) -> Box<dyn Watch> {
        Box::new(LogWatch::new(self.clone()))
    }

    fn claim(&self, request: Claim) -> BoxFuture<'_, Result<Claimed>> {
        Box::pin(async move { claim::claim(&self.engine().await?, &request).await })
    }

    fn cursors<'a>(&'a self, sink: &'a str) -> BoxFuture<'a, Result<Vec<Cursor>>> {
        Box::pin(async move { read::cursors(&self.engine().await?, sink).await })
    }

    fn read(&self, request: Read) -> BoxFuture<'_, Result<Page>> {
        Box::pin(async move {
            let client = self.engine().await?;
            let sabotage = self.options().sabotage;
            let known = self.current_source();
            let (source, page) = read::page(&client, &known, &request, sabotage).await?;
            if let Some(source) = source {
                self.learn(source);
            }
            Ok(page)
        })
    }

    fn id_at(&self, _: Partition, sequence: Sequence) -> BoxFuture<'_, Result<Option<Text>>> {
        Box::pin(async move { read::id_at(&self.engine().await?, sequence).await })
    }

    fn head(&self) -> BoxFuture<'_, Result<Sequence>> {
        Box::pin(async { schema::head(&*self.engine().await?).await })
    }

    fn trimmed(&self) -> BoxFuture<'_, Result<Vec<(Partition, Sequence)>>> {
        Box::pin(async { read::all_trimmed(&self.engine().await?).await })
    }

    fn sinks(&self) -> BoxFuture<'_, Result<Vec<SinkState>>> {
        Box::pin(async { trim::sinks(&self.engine().await?).await })
    }

    fn leases(&self) -> BoxFuture<'_, Result<Vec<LeaseState>>> {
        Box::pin(async { claim::leases(&self.engine().await?).await })
    }

    fn parked_keys<'a>(&'a self, scope: Option<&'a str>) -> BoxFuture<'a, Result<Vec<ParkedKey>>> {
        Box::pin(async move { parking::keys(&*self.engine().await?, scope).await })
    }

    fn parked_records<'a>(
        &'a self,
        key: &'a ParkedKey,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<ParkedRecord>>> {
        Box::pin(async move { parking::records(&*self.engine().await?, key, limit).await })
    }

    fn guards(&self) -> BoxFuture<'_, Result<Vec<Text>>> {
        Box::pin(async { guard::list(&*self.engine().await?).await })
    }

    fn warnings(&self) -> BoxFuture<'_, Result<Vec<Text>>> {
        Box::pin(async { schema::warnings(&*self.engine().await?).await })
    }

    fn gaps(&self) -> BoxFuture<'_, Result<Vec<Gap>>> {
        Box::pin(async { gap::gaps(&*self.engine().await?).await })
    }

    fn find(&self, what: Find) -> BoxFuture<'_, Result<Vec<Trace>>> {
        Box::pin(async move {
            find::find(&*self.engine().await?, &self.current_source().name, &what).await
        })
    }

    fn trim_max(&self) -> u32 {
        // Nobody waits for a trim here; a larger one writes the small tables less often.
        20_000
    }
}

impl Journal for PostgresStore {
    fn sagas(&self, find: FindSagas) -> BoxFuture<'_, Result<Vec<SavedSaga>>> {
        Box::pin(async move { saga::find(&self.engine().await?, &find).await })
    }

    fn list<'a>(&'a self, which: &'a ListSagas) -> BoxFuture<'a, Result<Vec<SagaHead>>> {
        Box::pin(async move {
            saga::heads(&self.engine().await?, which, self.inner.options.sabotage).await
        })
    }

    fn arrived(
        &self,
        partitions: Vec<Partition>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Arrived>>> {
        Box::pin(async move { signal::arrived(&self.engine().await?, &partitions, limit).await })
    }

    fn signals<'a>(
        &'a self,
        name: &'a str,
        about: Vec<Text>,
    ) -> BoxFuture<'a, Result<Vec<(Text, Json)>>> {
        Box::pin(async move { signal::about(&self.engine().await?, name, &about).await })
    }

    fn definition<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Text>>> {
        Box::pin(async move { saga::definition(&*self.engine().await?, id).await })
    }
}

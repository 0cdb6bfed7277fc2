//! The store's handle: what a service opens once and shares.

use std::{
    sync::{Arc, RwLock},
    time::Duration,
};

use onewrite_core::{
    BoxFuture, Partition, Result, Sequence, Text, Timestamp,
    flow::Trace,
    inbox::Gap,
    parking::{ParkedKey, ParkedRecord},
    position::Source,
    sabotage::Sabotage,
    saga::{
        Json,
        journal::{Arrived, FindSagas, Journal, ListSagas, SagaHead, SavedSaga},
    },
    store::{
        Batch, Claim, Claimed, Cursor, Durability, Find, LeaseState, Outcome, Page, Read,
        SinkState, Store, Watch,
    },
};
use rusqlite::Connection;
use tokio::sync::watch;

use crate::{
    Options,
    claim::{self, Held},
    commit, find, gap, guard,
    opened::Opened,
    parking, read,
    reader::Reader,
    saga, schema, signal, trim,
    writer::{Writer, now},
};

/// An open SQLite store. Cheap to clone; the last clone closes it.
#[derive(Clone)]
pub struct SqliteStore {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    source: RwLock<Source>,
    /// Closed before the writer: the last connection to close tidies up, and this one cannot write.
    reader: Reader,
    writer: Writer,
    changed: watch::Receiver<u64>,
    opened: Arc<Opened>,
}

impl SqliteStore {
    /// Opens the file, brings its schema up to date and starts its writer and reader.
    ///
    /// # Errors
    /// `StoreUnreachable`, `ReadOnly`, `Corrupt`, `SchemaMissing`, `SchemaUnsupported` or
    /// `StoreCopied`.
    pub fn open(options: Options) -> Result<Self> {
        let mut connection = options.connect_writer()?;
        let source = schema::open(&mut connection, &options)?;
        if options.event_bytes_max != onewrite_core::event::EVENT_BYTES_MAX_DEFAULT {
            schema::set_meta(&connection, "event_bytes_max", &options.event_bytes_max.to_string())?;
        }
        let (changes, changed) = watch::channel(0);
        let changes = Arc::new(changes);
        let reader = Reader::start(options.connect_reader()?, Arc::clone(&changes))?;
        let opened = Arc::new(Opened::of(&options.path, &connection)?);
        let writer = Writer::start(connection, &options, changes, Arc::clone(&opened))?;
        let source = RwLock::new(source);
        let inner = Inner { options, source, writer, reader, changed, opened };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Runs `work` in a transaction of the shared writer queue and returns once it is on disk.
    ///
    /// What waits at the same time shares one commit, so this is the fastest way to write; each call
    /// still succeeds or fails on its own. `work` may run twice (when a commit is refused because of
    /// another call), so it must have no effects outside the transaction. Keep it short: everyone
    /// else's writes wait for it.
    ///
    /// # Errors
    /// What `work` returns, `EventForgotten` from the guard, or what the commit says;
    /// `CommitUnknown` when its outcome is not known.
    pub async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> Result<T> + Send + 'static,
    {
        self.inner.writer.write(Durability::Durable, work).await
    }

    /// Runs `work` on a connection that cannot write.
    ///
    /// # Errors
    /// What `work` returns.
    pub async fn read_with<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        self.inner.reader.read(work).await
    }

    /// The options it was opened with.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    pub(crate) async fn engine_write<T, F>(&self, durability: Durability, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> Result<T> + Send + 'static,
    {
        self.inner.writer.write(durability, work).await
    }

    pub(crate) async fn engine_read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        self.inner.reader.read(work).await
    }

    pub(crate) fn sabotage(&self) -> Sabotage {
        self.inner.options.sabotage
    }

    pub(crate) fn current_source(&self) -> Source {
        self.inner.source.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl Store for SqliteStore {
    fn source(&self) -> Source {
        self.current_source()
    }

    fn now(&self) -> BoxFuture<'_, Result<Timestamp>> {
        Box::pin(std::future::ready(Ok(now())))
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Outcome>>> {
        let (source, sabotage) = (self.current_source(), self.sabotage());
        Box::pin(self.engine_write(batch.durability, move |tx| {
            let mut held = Held::default();
            let write = |item| commit::item(tx, &source, item, &mut held, sabotage);
            Ok(batch.items.iter().map(write).collect())
        }))
    }

    fn watch(&self) -> Box<dyn Watch> {
        Box::new(LogWatch(self.inner.changed.clone()))
    }

    fn claim(&self, request: Claim) -> BoxFuture<'_, Result<Claimed>> {
        Box::pin(self.engine_write(Durability::Relaxed, move |tx| claim::claim(tx, &request)))
    }

    fn cursors<'a>(&'a self, sink: &'a str) -> BoxFuture<'a, Result<Vec<Cursor>>> {
        let sink = sink.to_owned();
        Box::pin(self.engine_read(move |connection| read::cursors(connection, &sink)))
    }

    fn read(&self, request: Read) -> BoxFuture<'_, Result<Page>> {
        let sabotage = self.sabotage();
        Box::pin(async move {
            let (source, page) = self
                .engine_read(move |connection| read::page_now(connection, &request, sabotage))
                .await?;
            let mut known =
                self.inner.source.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            if *known != source {
                *known = source;
            }
            Ok(page)
        })
    }

    fn id_at(&self, _: Partition, sequence: Sequence) -> BoxFuture<'_, Result<Option<Text>>> {
        Box::pin(self.engine_read(move |connection| read::id_at(connection, sequence)))
    }

    fn head(&self) -> BoxFuture<'_, Result<Sequence>> {
        let opened = Arc::clone(&self.inner.opened);
        Box::pin(self.engine_read(move |connection| {
            opened.check()?;
            schema::head(connection)
        }))
    }

    fn trimmed(&self) -> BoxFuture<'_, Result<Vec<(Partition, Sequence)>>> {
        Box::pin(self.engine_read(read::trimmed))
    }

    fn sinks(&self) -> BoxFuture<'_, Result<Vec<SinkState>>> {
        Box::pin(self.engine_read(trim::sinks))
    }

    fn leases(&self) -> BoxFuture<'_, Result<Vec<LeaseState>>> {
        Box::pin(self.engine_read(claim::leases))
    }

    fn parked_keys<'a>(&'a self, scope: Option<&'a str>) -> BoxFuture<'a, Result<Vec<ParkedKey>>> {
        let scope = scope.map(str::to_owned);
        Box::pin(self.engine_read(move |connection| parking::keys(connection, scope.as_deref())))
    }

    fn parked_records<'a>(
        &'a self,
        key: &'a ParkedKey,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<ParkedRecord>>> {
        let key = key.clone();
        Box::pin(self.engine_read(move |connection| parking::records(connection, &key, limit)))
    }

    fn guards(&self) -> BoxFuture<'_, Result<Vec<Text>>> {
        Box::pin(self.engine_read(|connection| {
            Ok(guard::list(connection)?.into_iter().map(Text::from).collect())
        }))
    }

    fn gaps(&self) -> BoxFuture<'_, Result<Vec<Gap>>> {
        Box::pin(self.engine_read(gap::gaps))
    }

    fn find(&self, what: Find) -> BoxFuture<'_, Result<Vec<Trace>>> {
        let source = self.current_source().name;
        Box::pin(self.engine_read(move |connection| find::find(connection, &source, &what)))
    }
}

impl Journal for SqliteStore {
    fn sagas(&self, find: FindSagas) -> BoxFuture<'_, Result<Vec<SavedSaga>>> {
        Box::pin(self.engine_read(move |connection| saga::find(connection, &find)))
    }

    fn list<'a>(&'a self, which: &'a ListSagas) -> BoxFuture<'a, Result<Vec<SagaHead>>> {
        let which = which.clone();
        let sabotage = self.sabotage();
        Box::pin(self.engine_read(move |connection| saga::heads(connection, &which, sabotage)))
    }

    fn arrived(
        &self,
        partitions: Vec<Partition>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Arrived>>> {
        Box::pin(
            self.engine_read(move |connection| signal::arrived(connection, &partitions, limit)),
        )
    }

    fn signals<'a>(
        &'a self,
        name: &'a str,
        about: Vec<Text>,
    ) -> BoxFuture<'a, Result<Vec<(Text, Json)>>> {
        let name = name.to_owned();
        Box::pin(self.engine_read(move |connection| signal::about(connection, &name, &about)))
    }

    fn definition<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Text>>> {
        let id = id.to_owned();
        Box::pin(self.engine_read(move |connection| saga::definition(connection, &id)))
    }
}

struct LogWatch(watch::Receiver<u64>);

impl Watch for LogWatch {
    fn changed(&mut self, within: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Ok(Err(_closed)) = tokio::time::timeout(within, self.0.changed()).await {
                // The store is closing; what waits is told by the next read.
                tokio::time::sleep(within).await;
            }
        })
    }
}

//! A store with something between it and whoever writes.

use onewrite::{
    BoxFuture, Result, Store, Text, Timestamp, flow,
    inbox::Gap,
    parking,
    position::Source,
    saga::{
        Journal,
        journal::{Arrived, FindSagas, ListSagas, SagaHead, SavedSaga},
    },
    sqlite::SqliteStore,
    store::{
        Batch, Claim, Claimed, Cursor, Find, LeaseState, Outcome, Page, Read, SinkState, Watch,
    },
};

/// What a commit goes through.
pub(crate) type Commit =
    Box<dyn Fn(SqliteStore, Batch) -> BoxFuture<'static, Result<Vec<Outcome>>> + Send + Sync>;

pub(crate) struct Between {
    store: SqliteStore,
    commit: Commit,
}

impl Between {
    pub(crate) fn new(store: SqliteStore, commit: Commit) -> Self {
        Self { store, commit }
    }
}

impl Store for Between {
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Outcome>>> {
        (self.commit)(self.store.clone(), batch)
    }

    fn source(&self) -> Source {
        self.store.source()
    }

    fn now(&self) -> BoxFuture<'_, Result<Timestamp>> {
        self.store.now()
    }

    fn watch(&self) -> Box<dyn Watch> {
        self.store.watch()
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Claimed>> {
        self.store.claim(claim)
    }

    fn cursors<'a>(&'a self, sink: &'a str) -> BoxFuture<'a, Result<Vec<Cursor>>> {
        self.store.cursors(sink)
    }

    fn read(&self, read: Read) -> BoxFuture<'_, Result<Page>> {
        Store::read(&self.store, read)
    }

    fn id_at(&self, partition: u16, sequence: u64) -> BoxFuture<'_, Result<Option<Text>>> {
        self.store.id_at(partition, sequence)
    }

    fn head(&self) -> BoxFuture<'_, Result<u64>> {
        self.store.head()
    }

    fn trimmed(&self) -> BoxFuture<'_, Result<Vec<(u16, u64)>>> {
        self.store.trimmed()
    }

    fn sinks(&self) -> BoxFuture<'_, Result<Vec<SinkState>>> {
        self.store.sinks()
    }

    fn leases(&self) -> BoxFuture<'_, Result<Vec<LeaseState>>> {
        self.store.leases()
    }

    fn parked_keys<'a>(
        &'a self,
        scope: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<parking::ParkedKey>>> {
        self.store.parked_keys(scope)
    }

    fn parked_records<'a>(
        &'a self,
        key: &'a parking::ParkedKey,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<parking::ParkedRecord>>> {
        self.store.parked_records(key, limit)
    }

    fn guards(&self) -> BoxFuture<'_, Result<Vec<Text>>> {
        self.store.guards()
    }

    fn gaps(&self) -> BoxFuture<'_, Result<Vec<Gap>>> {
        self.store.gaps()
    }

    fn find(&self, find: Find) -> BoxFuture<'_, Result<Vec<flow::Trace>>> {
        self.store.find(find)
    }
}

impl Journal for Between {
    fn sagas(&self, find: FindSagas) -> BoxFuture<'_, Result<Vec<SavedSaga>>> {
        self.store.sagas(find)
    }

    fn list<'a>(&'a self, which: &'a ListSagas) -> BoxFuture<'a, Result<Vec<SagaHead>>> {
        self.store.list(which)
    }

    fn arrived(&self, partitions: Vec<u16>, limit: usize) -> BoxFuture<'_, Result<Vec<Arrived>>> {
        self.store.arrived(partitions, limit)
    }

    fn signals<'a>(
        &'a self,
        name: &'a str,
        about: Vec<Text>,
    ) -> BoxFuture<'a, Result<Vec<(Text, onewrite::saga::Json)>>> {
        self.store.signals(name, about)
    }

    fn definition<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Text>>> {
        self.store.definition(id)
    }
}

//! S2: nothing is attempted before what permits it is durable.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use onewrite::{
    BoxFuture, Result, Store, Text, Timestamp, flow,
    inbox::Gap,
    parking,
    position::Source,
    sabotage::{Defect, Sabotage},
    saga::{
        Journal,
        journal::{Arrived, FindSagas, SavedSaga},
    },
    sqlite::SqliteStore,
    store::{
        Batch, Claim, Claimed, Cursor, Find, LeaseState, Op, Outcome, Page, Read, SinkState, Watch,
    },
};
use tokio::sync::Notify;

use super::world::{self, Running, World, order, order_saga};
use crate::rig::{broken, sound, until, within};

/// A store whose transitions wait until they are let through.
struct Held {
    store: SqliteStore,
    held: AtomicBool,
    through: Notify,
    waiting: AtomicBool,
}

impl Held {
    fn let_through(&self) {
        self.held.store(false, Ordering::SeqCst);
        self.through.notify_waiters();
    }
}

impl Store for Held {
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Outcome>>> {
        Box::pin(async move {
            let mut ops = batch.items.iter().flat_map(|item| &item.ops);
            let transitions = ops.any(|op| matches!(op, Op::AdvanceSaga(_)));
            let through = self.through.notified();
            if transitions && self.held.load(Ordering::SeqCst) {
                self.waiting.store(true, Ordering::SeqCst);
                through.await;
            }
            self.store.commit(batch).await
        })
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

impl Journal for Held {
    fn sagas(&self, find: FindSagas) -> BoxFuture<'_, Result<Vec<SavedSaga>>> {
        self.store.sagas(find)
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

/// How many effects there are while the first step's transition is on its way to the store.
async fn effects_meanwhile(sabotage: Sabotage) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path(), true).await;
    let store = Arc::new(Held {
        store: world::store(folder.path(), sound()),
        held: AtomicBool::new(true),
        through: Notify::new(),
        waiting: AtomicBool::new(false),
    });
    let running = Running::start(store.clone(), &world, "a", sabotage);
    let saga = order_saga();
    let order = order(1);
    let started = running.sagas.start(&saga, order.key.clone(), &order).await.unwrap();
    until("the first transition", async || store.waiting.load(Ordering::SeqCst)).await;
    let effects = async || world.effects().await.values().map(Vec::len).sum::<usize>();
    // Time enough for what must not happen.
    within(Duration::from_millis(300), async || effects().await > 1).await;
    let meanwhile = effects().await;
    store.let_through();
    running.sagas.ended(started.id).await.unwrap();
    running.stop().await;
    meanwhile
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_attempted_before_its_permission_is_durable() {
    assert_eq!(effects_meanwhile(sound()).await, 1, "the first step's own effect");
}

#[tokio::test(flavor = "multi_thread")]
async fn acting_before_the_journal_is_noticed() {
    assert!(effects_meanwhile(broken(Defect::ActBeforeJournal)).await > 1);
}

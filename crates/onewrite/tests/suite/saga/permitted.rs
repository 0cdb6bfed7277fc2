//! S2: nothing is attempted before what permits it is durable.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use onewrite::{
    BoxFuture, Result,
    sabotage::{Defect, Sabotage},
    sqlite::SqliteStore,
    store::{Batch, Op, Outcome, Store as _},
};
use tokio::sync::Notify;

use super::{
    between::Between,
    world::{self, Running, World, order, order_saga},
};
use crate::rig::{broken, sound, until, within};

/// What transitions wait at until they are let through.
#[derive(Default)]
struct Gate {
    is_open: AtomicBool,
    through: Notify,
    waiting: AtomicBool,
}

impl Gate {
    async fn pass(&self, store: SqliteStore, batch: Batch) -> Result<Vec<Outcome>> {
        let mut ops = batch.items.iter().flat_map(|item| &item.ops);
        let transitions = ops.any(|op| matches!(op, Op::AdvanceSaga(_)));
        let through = self.through.notified();
        if transitions && !self.is_open.load(Ordering::SeqCst) {
            self.waiting.store(true, Ordering::SeqCst);
            through.await;
        }
        store.commit(batch).await
    }

    fn open(&self) {
        self.is_open.store(true, Ordering::SeqCst);
        self.through.notify_waiters();
    }
}

/// How many effects there are while the first step's transition is on its way to the store.
async fn effects_meanwhile(sabotage: Sabotage) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path(), true).await;
    let gate = Arc::new(Gate::default());
    let passing = Arc::clone(&gate);
    let commit = move |store, batch| -> BoxFuture<'static, Result<Vec<Outcome>>> {
        let gate = Arc::clone(&passing);
        Box::pin(async move { gate.pass(store, batch).await })
    };
    let store = world::store(folder.path(), sound());
    let store = Arc::new(Between::new(store, Box::new(commit)));
    let running = Running::start(store, &world, "a", sabotage);
    let saga = order_saga();
    let order = order(1);
    let started = running.sagas.start(&saga, order.key.clone(), &order).await.unwrap();
    until("the first transition", async || gate.waiting.load(Ordering::SeqCst)).await;
    let effects = async || world.effects().await.values().map(Vec::len).sum::<usize>();
    // Time enough for what must not happen.
    within(Duration::from_millis(300), async || effects().await > 1).await;
    let meanwhile = effects().await;
    gate.open();
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

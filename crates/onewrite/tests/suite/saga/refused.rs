//! A write that the database refuses fails alone, whatever shares its statement.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use onewrite::{
    BoxFuture, Code, Error, Result, Store as _,
    sqlite::SqliteStore,
    store::{Batch, Op, Outcome},
};

use super::{
    between::Between,
    world::{self, Order, Running, World, judge, order_saga, run_all},
};
use crate::rig::{PATIENCE, sound, until};

const REFUSED: &str = "refused";

/// As a server does: one row that it cannot store fails the statement, and with it the batch.
fn commit(store: SqliteStore, batch: Batch) -> BoxFuture<'static, Result<Vec<Outcome>>> {
    let is_it = |op: &Op| matches!(op, Op::StartSaga(new) if &*new.key == REFUSED);
    let refused = batch.items.iter().any(|item| item.ops.iter().any(is_it));
    Box::pin(async move {
        match refused {
            true => Err(Error::new(Code::Database, "write sagas").with_source("an invalid row")),
            false => store.commit(batch).await,
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_refused_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path(), true).await;
    let store = world::store(folder.path(), sound());
    let between = Arc::new(Between::new(store.clone(), Box::new(commit)));
    let running = Running::start(between, &world, "a", sound());
    let sagas = running.sagas.clone();
    let all = tokio::spawn(async move { run_all(&sagas).await });
    let order = Order { key: REFUSED.into(), fails: None };
    let (saga, key) = (order_saga(), order.key.clone());
    let refused = running.sagas.start(&saga, key, &order);
    let error = tokio::time::timeout(PATIENCE, refused).await.expect("an answer").unwrap_err();
    assert_eq!(error.code(), Code::Database);
    assert_eq!(error.to_string().matches("OW0029").count(), 1, "{error}");
    assert!(error.to_string().contains("an invalid row"), "{error}");
    tokio::time::timeout(PATIENCE, all).await.expect("the others end").unwrap();
    running.stop().await;
    assert_eq!(judge(&store, &world).await, Vec::<String>::new());
}

/// One saga's transitions are refused for as long as it is asked: it waits aside, alone, and goes on afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn transitions_that_are_refused_hold_up_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path(), true).await;
    let store = world::store(folder.path(), sound());
    let (refuses, refusals) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let shared = Arc::new(AtomicUsize::new(0));
    let (asked, counted, sharing) = (refuses.clone(), refusals.clone(), shared.clone());
    let poisonous = move |batch: &Batch| {
        // Of the saga of this key alone; by its output, for a transition does not say its key.
        let is_it = |op: &Op| matches!(op, Op::AdvanceSaga(next) if next.entries.contains(REFUSED));
        batch.items.iter().any(|item| item.ops.iter().any(is_it))
    };
    let commit = move |store: SqliteStore, batch: Batch| -> BoxFuture<'static, _> {
        let refused = asked.load(Ordering::SeqCst) && poisonous(&batch);
        counted.fetch_add(usize::from(refused), Ordering::SeqCst);
        sharing.fetch_add(usize::from(refused && batch.items.len() > 1), Ordering::SeqCst);
        Box::pin(async move {
            match refused {
                true => Err(Error::new(Code::Database, "write sagas").with_source("an odd row")),
                false => store.commit(batch).await,
            }
        })
    };
    let running = Running::start(
        Arc::new(Between::new(store.clone(), Box::new(commit))),
        &world,
        "a",
        sound(),
    );
    let order = Order { key: REFUSED.into(), fails: None };
    let odd = running.sagas.start(&order_saga(), order.key.clone(), &order).await.unwrap();
    until("its first refusal", async || refusals.load(Ordering::SeqCst) > 0).await;
    tokio::time::timeout(PATIENCE, run_all(&running.sagas)).await.expect("the others end");
    // Tried with each batch of the others it would have been refused a hundred times.
    let meanwhile = refusals.load(Ordering::SeqCst);
    assert!(meanwhile < 40, "{meanwhile} refusals");
    assert!(shared.load(Ordering::SeqCst) <= 1, "others shared its commit again");
    refuses.store(false, Ordering::SeqCst);
    tokio::time::timeout(PATIENCE, running.sagas.ended(odd.id)).await.expect("it ends").unwrap();
    running.stop().await;
    assert_eq!(judge(&store, &world).await.len(), 1, "the odd one is no order of the list");
}

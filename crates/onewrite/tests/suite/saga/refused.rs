//! A write that the database refuses fails alone, whatever shares its statement.

use std::sync::Arc;

use onewrite::{
    BoxFuture, Code, Error, Result, Store as _,
    sqlite::SqliteStore,
    store::{Batch, Op, Outcome},
};

use super::{
    between::Between,
    world::{self, Order, Running, World, judge, order_saga, run_all},
};
use crate::rig::{PATIENCE, sound};

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

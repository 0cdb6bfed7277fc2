//! The helpers for tests of sagas, with steps in the store that the saga is run from.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use onewrite::sqlite::SqliteStore;
use onewrite_testkit::saga::{Caught, EveryFault, Fault, Ran, Report};

use super::bank::{self, CENTS, Clerk, TransferSaga, transfer};

async fn tried(state: impl FnOnce(&SqliteStore) -> TransferSaga) -> Result<Report, Caught> {
    let folder = tempfile::tempdir().unwrap();
    let store = bank::open(folder.path()).await;
    let (saga, completed) = (state(&store), AtomicI64::new(0));
    let is_right = async |_: &Clerk, ran: &Ran<i64>| {
        let made = i64::from(ran.is_completed());
        let made = completed.fetch_add(made, Ordering::Relaxed) + made;
        let balances = bank::balances(&store).await;
        let right = (-CENTS * made, CENTS * made, made);
        if balances == right { Ok(()) } else { Err(format!("{balances:?}, not {right:?}")) }
    };
    let faults = EveryFault::default().over(bank::journal(&store));
    faults.run(&saga, async || Arc::new(Clerk::default()), &transfer(0), is_right).await
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_in_the_store_bear_every_fault_without_a_key() {
    let report = tried(bank::on_sqlite).await.unwrap();
    assert_eq!(report.runs.len(), 1 + 7 + 5 + 4);
}

/// The control: committed apart from the journal, what is made again takes effect again.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_writes_apart_are_caught() {
    let caught = tried(bank::apart).await.unwrap_err();
    assert_eq!((&*caught.step, caught.fault), ("withdraw", Fault::Repeated));
}

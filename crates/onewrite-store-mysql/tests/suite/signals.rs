//! Signals in a user's transaction that stays open.

use mysql_async::{IsolationLevel, TxOpts, prelude::Queryable as _};
use onewrite_store_mysql::{mysql_async, signal};
use onewrite_testkit::conformance::signal::{
    begin_to_wait, found_once_matched, left_while_locked, others_go_on, sent,
};

use crate::rig::{connect, database, open};

/// Where a user's own connection has the server's default.
fn repeatable() -> TxOpts {
    let mut options = TxOpts::default();
    options.with_isolation_level(IsolationLevel::RepeatableRead);
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_and_what_waits_for_it_find_each_other_though_neither_saw_the_other() {
    let url = database().await;
    let (store, mut conn) = (open(&url).await, connect(&url).await);
    let mut tx = conn.start_transaction(repeatable()).await.unwrap();
    assert!(signal(&mut tx, &sent()).await.unwrap());
    begin_to_wait(&store).await;
    tx.commit().await.unwrap();
    let mut tx = conn.start_transaction(repeatable()).await.unwrap();
    tx.query_drop("SELECT saga FROM onewrite_saga_wait FOR UPDATE").await.unwrap();
    left_while_locked(&store).await;
    tx.rollback().await.unwrap();
    found_once_matched(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_that_sent_a_signal_holds_up_nobody_else() {
    let url = database().await;
    let (store, mut conn) = (open(&url).await, connect(&url).await);
    begin_to_wait(&store).await;
    let mut tx = conn.start_transaction(repeatable()).await.unwrap();
    assert!(signal(&mut tx, &sent()).await.unwrap());
    others_go_on(&store).await;
    tx.commit().await.unwrap();
}

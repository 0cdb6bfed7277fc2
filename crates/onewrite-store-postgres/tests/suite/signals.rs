//! Signals in a user's transaction that stays open.

use onewrite_store_postgres::signal;
use onewrite_testkit::conformance::signal::{
    begin_to_wait, found_once_matched, left_while_locked, others_go_on, sent,
};

use crate::rig::place;

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_and_what_waits_for_it_find_each_other_though_neither_saw_the_other() {
    let store = place(4).await.store().await;
    let mut client = store.work().await.unwrap();
    let tx = client.transaction().await.unwrap();
    assert!(signal(&tx, &sent()).await.unwrap());
    begin_to_wait(&store).await;
    tx.commit().await.unwrap();
    let tx = client.transaction().await.unwrap();
    tx.execute("SELECT FROM onewrite.saga_wait FOR UPDATE", &[]).await.unwrap();
    left_while_locked(&store).await;
    tx.rollback().await.unwrap();
    found_once_matched(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_that_sent_a_signal_holds_up_nobody_else() {
    let store = place(4).await.store().await;
    begin_to_wait(&store).await;
    let mut client = store.work().await.unwrap();
    let tx = client.transaction().await.unwrap();
    assert!(signal(&tx, &sent()).await.unwrap());
    others_go_on(&store).await;
    tx.commit().await.unwrap();
}

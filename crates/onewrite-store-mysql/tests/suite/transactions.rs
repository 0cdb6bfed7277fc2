//! Transactions that are not what they seem to be when they are committed.

use mysql_async::prelude::Queryable as _;
use onewrite_core::{
    Code, Delivery, Incarnation, Record,
    inbox::{Attempt, Inbox as _},
    record::Order,
    sabotage::{Defect, Sabotage},
    store::{Batch, Durability, Item, Op, Outcome, Store as _},
};
use onewrite_store_mysql::{Context, InboxOptions, MysqlInbox, MysqlStore, emit};

use crate::rig::{connect, database, event, execute, log, number, open, open_broken};

fn delivery() -> Delivery {
    let record = Record {
        source: "shop".into(),
        incarnation: Incarnation(7),
        partition: 0,
        sequence: 1,
        event: event("k", "1"),
    };
    Delivery { record, order: Order::Chained { previous: 0 } }
}

/// Handles one delivery with a handler that writes a row, does `act`, and writes another.
async fn handle(store: &MysqlStore, act: &'static str) -> onewrite_core::Result<usize> {
    handle_with(store, act, Sabotage::default()).await
}

async fn handle_with(
    store: &MysqlStore,
    act: &'static str,
    sabotage: Sabotage,
) -> onewrite_core::Result<usize> {
    let mut options = InboxOptions::new("c");
    options.policy.sabotage = sabotage;
    let inbox = MysqlInbox::new(store, options, move |cx: &mut Context<'_>| {
        Box::pin(async move {
            cx.tx().query_drop("INSERT INTO effect VALUES ('before')").await?;
            // Whatever comes of it.
            let _ = cx.tx().query_drop(act).await;
            cx.tx().query_drop("INSERT INTO effect VALUES ('after')").await?;
            Ok(())
        })
    })?;
    let deliveries = vec![delivery()];
    inbox.receive(deliveries.clone(), Attempt::of(&deliveries)).await.map(|receipts| receipts.len())
}

/// A deadlock undoes a transaction, and the handler may overlook it: nothing of it may stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_overlooks_the_end_of_its_transaction_leaves_nothing() {
    let url = database().await;
    let store = open(&url).await;
    let mut conn = connect(&url).await;
    execute(&mut conn, "CREATE TABLE effect (id TEXT)").await;
    let effects = "SELECT COUNT(*) FROM effect";
    let refused = handle(&store, "ROLLBACK").await.unwrap_err();
    assert_eq!(refused.code(), Code::StoreBusy, "{refused}");
    assert_eq!(number(&mut conn, effects).await, 0);
    assert_eq!(handle(&store, "SELECT 1").await.unwrap(), 1);
    assert_eq!(number(&mut conn, effects).await, 2);
    assert_eq!(number(&mut conn, "SELECT sequence FROM onewrite_inbox").await, 1);
}

/// The same without the look at what was begun: half of an effect stays, and its mark moves.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_check_half_of_what_a_handler_wrote_is_committed() {
    let url = database().await;
    let trusting = Sabotage::default().with(Defect::TrustTransaction);
    let store = open_broken(&url, trusting).await;
    let mut conn = connect(&url).await;
    execute(&mut conn, "CREATE TABLE effect (id TEXT)").await;
    let handled = handle_with(&store, "ROLLBACK", trusting).await;
    assert_eq!(handled.unwrap(), 1, "it is reported as done");
    let ids: Vec<String> = conn.query("SELECT id FROM effect").await.unwrap();
    assert_eq!(ids, ["after"], "nothing noticed");
    let lost = store.write(|tx| {
        Box::pin(async move {
            emit(tx, &event("k", "lost")).await?;
            let _ = tx.query_drop("ROLLBACK").await;
            emit(tx, &event("k", "alone")).await.map(drop)
        })
    });
    lost.await.unwrap();
    assert_eq!(log(&store).await, ["alone"], "nothing noticed");
}

/// A statement that commits by itself is noticed, and what comes behind it is undone.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_commits_is_noticed() {
    let url = database().await;
    let store = open(&url).await;
    let mut conn = connect(&url).await;
    execute(&mut conn, "CREATE TABLE effect (id TEXT)").await;
    let refused = handle(&store, "CREATE TABLE other (n INT)").await.unwrap_err();
    assert!(refused.to_string().contains("ended before its commit"), "{refused}");
    let ids: Vec<String> = conn.query("SELECT id FROM effect").await.unwrap();
    assert_eq!(ids, ["before"], "what it committed itself is beyond help");
    let mark = "SELECT COALESCE(MAX(sequence), 0) FROM onewrite_inbox";
    assert_eq!(number(&mut conn, mark).await, 0, "its mark must not move");
}

/// The same for a user's transaction: it is not reported as committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_transaction_was_undone_is_not_reported_as_done() {
    let store = open(&database().await).await;
    let work = store.write(|tx| {
        Box::pin(async move {
            emit(tx, &event("k", "lost")).await?;
            let _ = tx.query_drop("ROLLBACK").await;
            emit(tx, &event("k", "alone")).await.map(drop)
        })
    });
    assert_eq!(work.await.unwrap_err().code(), Code::StoreBusy);
    assert!(log(&store).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_is_refused_in_clear_words() {
    let store = open(&database().await).await;
    let items = vec![Item { fence: None, ops: vec![Op::Guard { table: "orders".into() }] }];
    let batch = Batch { durability: Durability::Durable, items };
    let outcome = store.commit(batch).await.unwrap().pop();
    let Some(Outcome::Failed(error)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.code(), Code::UnsafeSetting);
    assert!(error.to_string().contains("cannot be guarded"), "{error}");
}

/// What does not fit is refused by the library, and by the schema for programs in other languages.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_cannot_be_delivered_are_refused() {
    let url = database().await;
    let store = open(&url).await;
    let mut conn = connect(&url).await;
    let large = event("k", "large").bytes("text/plain", vec![b'x'; 1_100_000]);
    assert_eq!(emit(&mut conn, &large).await.unwrap_err().code(), Code::EventTooLarge);
    let insert = "INSERT INTO onewrite_outbox (aggregatetype, aggregateid, type) VALUES (?, ?, ?)";
    for (values, state) in [(("", "1", "T"), "OW006"), (("Order", "", "T"), "OW006")] {
        let refused = conn.exec_drop(insert, values).await.unwrap_err();
        assert!(refused.to_string().contains(state), "{refused}");
    }
    assert!(conn.exec_drop(insert, ("Order", "x".repeat(1025), "T")).await.is_err());
    assert!(log(&store).await.is_empty());
}

//! Handlers that write through `sqlx`: transactions that end early, and servers that are killed.

use std::sync::Arc;

use mysql_async::prelude::Queryable as _;
use onewrite_core::{
    Code, Delivery, Incarnation, Record, Result,
    broker::Receipt,
    inbox::{Attempt, Inbox as _},
    record::Order,
    sabotage::{Defect, Sabotage},
};
use onewrite_store_mysql::{InboxOptions, MysqlStore, mysql_async, sqlx::SqlxInbox};
use onewrite_testkit::server::Mariadb;
use sqlx::{Executor as _, MySqlPool};

use crate::rig::{connect, database, event, execute, number, open, until};

const EFFECTS: &str = "SELECT COUNT(*) FROM effect";
const MARK: &str = "SELECT COALESCE(MAX(sequence), 0) FROM onewrite_inbox";

fn delivery(sequence: u64) -> Delivery {
    let record = Record {
        source: "shop".into(),
        incarnation: Incarnation(7),
        partition: 0,
        sequence,
        event: event("k", format!("e{sequence}")),
    };
    Delivery { record, order: Order::Chained { previous: sequence - 1 } }
}

/// An inbox whose handler writes a row, does `act` whatever comes of it, and writes another.
async fn inbox(store: &MysqlStore, url: &str, act: &'static str) -> SqlxInbox {
    let pool = MySqlPool::connect(url).await.unwrap();
    SqlxInbox::new(store, &pool, InboxOptions::new("c"), move |cx| {
        Box::pin(async move {
            cx.tx().execute("INSERT INTO effect VALUES ('before')").await?;
            let _ = cx.tx().execute(act).await;
            cx.tx().execute("INSERT INTO effect VALUES ('after')").await?;
            Ok(())
        })
    })
    .unwrap()
}

async fn receive(inbox: &SqlxInbox, sequence: u64) -> Result<Receipt> {
    let deliveries = vec![delivery(sequence)];
    let attempts = Attempt::of(&deliveries);
    inbox.attempt(attempts.clone(), true).await?;
    inbox.receive(deliveries, attempts).await.map(|mut receipts| receipts.remove(0))
}

/// A deadlock undoes a transaction, and the handler may overlook it: nothing of it may stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_overlooks_the_end_of_its_transaction_leaves_nothing() {
    let url = database().await;
    let store = open(&url).await;
    let mut conn = connect(&url).await;
    execute(&mut conn, "CREATE TABLE effect (id TEXT)").await;
    let refused = receive(&inbox(&store, &url, "ROLLBACK").await, 1).await.unwrap_err();
    assert_eq!(refused.code(), Code::StoreBusy, "{refused}");
    assert_eq!((number(&mut conn, EFFECTS).await, number(&mut conn, MARK).await), (0, 0));
    let sound = inbox(&store, &url, "SELECT 1").await;
    assert_eq!(receive(&sound, 1).await.unwrap(), Receipt::Accepted);
    assert_eq!((number(&mut conn, EFFECTS).await, number(&mut conn, MARK).await), (2, 1));
}

/// A statement that commits by itself is noticed, and what comes behind it is undone.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_commits_is_noticed() {
    let url = database().await;
    let store = open(&url).await;
    let mut conn = connect(&url).await;
    execute(&mut conn, "CREATE TABLE effect (id TEXT)").await;
    let commits = inbox(&store, &url, "CREATE TABLE other (n INT)").await;
    let refused = receive(&commits, 1).await.unwrap_err();
    assert!(refused.to_string().contains("ended before its commit"), "{refused}");
    let ids: Vec<String> = conn.query("SELECT id FROM effect").await.unwrap();
    assert_eq!(ids, ["before"], "what it committed itself is beyond help");
    assert_eq!(number(&mut conn, MARK).await, 0, "its mark must not move");
}

/// A nested transaction of the handler's own is a savepoint, and its end is not the batch's.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_may_nest_transactions() {
    let url = database().await;
    let store = open(&url).await;
    let pool = MySqlPool::connect(&url).await.unwrap();
    pool.execute("CREATE TABLE effect (id TEXT)").await.unwrap();
    let inbox = SqlxInbox::new(&store, &pool, InboxOptions::new("c"), |cx| {
        Box::pin(async move {
            use sqlx::Connection as _;
            let mut undone = cx.tx().begin().await?;
            undone.execute("INSERT INTO effect VALUES ('undone')").await?;
            undone.rollback().await?;
            let mut kept = cx.tx().begin().await?;
            kept.execute("INSERT INTO effect VALUES ('kept')").await?;
            kept.commit().await?;
            Ok(())
        })
    })
    .unwrap();
    assert_eq!(receive(&inbox, 1).await.unwrap(), Receipt::Accepted);
    let ids: Vec<String> = connect(&url).await.query("SELECT id FROM effect").await.unwrap();
    assert_eq!(ids, ["kept"]);
}

/// Receives while the server is killed and started again, until `last` is accepted; how often each event took
/// effect.
async fn receive_through_a_crash(sabotage: Sabotage, last: u64) -> Vec<i64> {
    let server = Arc::new(Mariadb::start().await.unwrap());
    server.address().create_database("crash").await.unwrap();
    let url = server.address().url("crash");
    let store = open(&url).await;
    let pool = MySqlPool::connect(&url).await.unwrap();
    pool.execute("CREATE TABLE effect (id VARCHAR(20))").await.unwrap();
    let mut options = InboxOptions::new("c");
    options.policy.sabotage = sabotage;
    let inbox = SqlxInbox::new(&store, &pool, options, |cx| {
        let id = cx.record().id().to_owned();
        Box::pin(async move {
            sqlx::query("INSERT INTO effect VALUES (?)").bind(id).execute(cx.tx()).await?;
            Ok(())
        })
    })
    .unwrap();
    let killed = last / 2;
    for sequence in 1..=last {
        if sequence == killed {
            let killing = Arc::clone(&server);
            tokio::task::spawn_blocking(move || killing.kill()).await.unwrap();
            assert!(receive(&inbox, sequence).await.is_err(), "it is down");
            server.restart().await.unwrap();
            // What a crash may have undone comes again.
            for again in 1..sequence {
                until("what came before is settled", async || receive(&inbox, again).await.is_ok())
                    .await;
            }
        }
        until("it is accepted", async || receive(&inbox, sequence).await.is_ok()).await;
    }
    let mut conn = connect(&url).await;
    let mut counts = Vec::new();
    for sequence in 1..=last {
        let sql = format!("SELECT COUNT(*) FROM effect WHERE id = 'e{sequence}'");
        counts.push(number(&mut conn, &sql).await);
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_keeps_what_was_accepted_and_nothing_twice() {
    let counts = receive_through_a_crash(Sabotage::default(), 20).await;
    assert!(counts.iter().all(|count| *count == 1), "{counts:?}");
}

/// The same with a receiver without memory: the test would notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_without_memory_doubles_what_comes_again() {
    let counts = receive_through_a_crash(Sabotage::default().with(Defect::NoDedup), 20).await;
    assert!(counts.iter().any(|count| *count > 1), "nothing noticed: {counts:?}");
}

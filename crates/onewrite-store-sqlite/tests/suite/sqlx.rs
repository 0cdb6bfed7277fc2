//! Joining transactions of `sqlx`.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use onewrite_core::{
    Code, Delivery, Event, Record,
    broker::Receipt,
    inbox::{Attempt, Inbox},
    parking::Request,
    record::Order,
    store::{Batch, Durability, Item, Op, Store},
};
use onewrite_store_sqlite::{
    InboxOptions,
    sqlx::{SqlxInbox, emit},
};
use sqlx::{
    Row, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteSynchronous},
};

use crate::emit::{every, open};

async fn pool(folder: &tempfile::TempDir) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(folder.path().join("shop.db"))
        .synchronous(SqliteSynchronous::Full);
    SqlitePool::connect_with(options).await.unwrap()
}

#[tokio::test]
async fn an_event_shares_the_fate_of_the_sqlx_rows_around_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let pool = pool(&folder).await;
    sqlx::query("CREATE TABLE orders (id TEXT)").execute(&pool).await.unwrap();
    for (id, keep) in [("kept", true), ("dropped", false)] {
        let mut tx = pool.begin().await.unwrap();
        sqlx::query("INSERT INTO orders VALUES (?1)").bind(id).execute(&mut *tx).await.unwrap();
        emit(&mut tx, &Event::new("OrderCreated", "Order", id).header("h", "1")).await.unwrap();
        if keep { tx.commit().await.unwrap() } else { tx.rollback().await.unwrap() }
    }
    let page = store.read(every(&store)).await.unwrap();
    let found: Vec<_> = page
        .records
        .iter()
        .map(|record| (&*record.event.aggregate_id, record.event.headers.len()))
        .collect();
    assert_eq!(found, [("kept", 1)]);
    let careless = SqliteConnectOptions::new()
        .filename(folder.path().join("shop.db"))
        .synchronous(SqliteSynchronous::Off);
    let mut careless = sqlx::ConnectOptions::connect(&careless).await.unwrap();
    assert_eq!(
        emit(&mut careless, &Event::new("A", "Order", "1")).await.unwrap_err().code(),
        Code::UnsafeSetting
    );
}

fn delivery(sequence: u64, previous: u64) -> Delivery {
    let event =
        Event { id: Some(format!("e{sequence}").into()), ..Event::new("Paid", "Order", "o1") };
    let record = Record {
        source: "pay".into(),
        incarnation: "00000000000000aa".parse().unwrap(),
        partition: 3,
        sequence,
        event,
    };
    Delivery { record, order: Order::Chained { previous } }
}

async fn receive(inbox: &SqlxInbox, deliveries: Vec<Delivery>) -> Vec<Receipt> {
    let attempts = Attempt::of(&deliveries);
    inbox.attempt(attempts.clone(), true).await.unwrap();
    inbox.receive(deliveries, attempts).await.unwrap()
}

#[tokio::test]
async fn a_sqlx_handler_runs_once_in_effect_and_parks_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let pool = pool(&folder).await;
    sqlx::query("CREATE TABLE seen (id TEXT)").execute(&pool).await.unwrap();
    let refuse = Arc::new(AtomicU32::new(0));
    let refusing = Arc::clone(&refuse);
    let inbox = SqlxInbox::new(&store, pool.clone(), InboxOptions::new("ship"), move |cx| {
        let refusing = refusing.load(Ordering::Relaxed) > 0;
        Box::pin(async move {
            let id = cx.record().id().to_owned();
            sqlx::query("INSERT INTO seen VALUES (?1)").bind(id).execute(cx.tx()).await?;
            cx.emit(Event::new("Shipped", "Order", "o1")).await?;
            if refusing { Err("not today".into()) } else { Ok(()) }
        })
    })
    .unwrap();
    let seen = async || -> Vec<String> {
        let rows =
            sqlx::query("SELECT id FROM seen ORDER BY rowid").fetch_all(&pool).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(
        receive(&inbox, vec![delivery(1, 0), delivery(4, 1)]).await,
        [Receipt::Accepted, Receipt::Accepted]
    );
    assert_eq!(receive(&inbox, vec![delivery(4, 1)]).await, [Receipt::Duplicate]);
    assert_eq!(receive(&inbox, vec![delivery(9, 7)]).await, [Receipt::Gap { have: 4 }]);
    refuse.store(1, Ordering::Relaxed);
    for _ in 1..5 {
        assert_eq!(
            receive(&inbox, vec![delivery(7, 4)]).await,
            [Receipt::Retry("not today".into())]
        );
    }
    assert_eq!(
        receive(&inbox, vec![delivery(7, 4)]).await,
        [Receipt::Accepted],
        "its key is parked"
    );
    refuse.store(0, Ordering::Relaxed);
    assert_eq!(
        receive(&inbox, vec![delivery(9, 7)]).await,
        [Receipt::Accepted],
        "behind it, parked too"
    );
    assert_eq!(seen().await, ["e1", "e4"], "what was refused left nothing");
    let emitted = store.read(every(&store)).await.unwrap().records;
    assert_eq!(emitted.len(), 2);
    assert_eq!(emitted[0].event.causation_id.as_deref(), Some("e1"));
    let key = store.parked_keys(None).await.unwrap().pop().unwrap();
    assert_eq!(key.waiting, 2);
    let (scope, source) = (key.scope.clone(), key.source.clone());
    let op =
        Op::Request { scope, source, key: key.key.clone(), request: Request::Retry, reason: None };
    let items = vec![Item { fence: None, ops: vec![op] }];
    store.commit(Batch { durability: Durability::Durable, items }).await.unwrap();
    assert_eq!(inbox.redrive(key.clone()).await.unwrap(), Ok(1));
    assert_eq!(inbox.redrive(key.clone()).await.unwrap(), Ok(0));
    assert_eq!(seen().await, ["e1", "e4", "e7", "e9"]);
    assert_eq!(inbox.redrive(key).await.unwrap(), Ok(0), "nothing is left");
    assert_eq!(receive(&inbox, vec![delivery(12, 9)]).await, [Receipt::Accepted]);
    assert_eq!(seen().await.last().unwrap(), "e12", "the key is free");
}

#[tokio::test]
async fn an_inbox_refuses_a_pool_whose_commits_do_not_reach_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let options = SqliteConnectOptions::new()
        .filename(folder.path().join("shop.db"))
        .synchronous(SqliteSynchronous::Normal);
    let careless = SqlitePool::connect_with(options).await.unwrap();
    let inbox = |pool| {
        SqlxInbox::new(&store, pool, InboxOptions::new("ship"), |_| Box::pin(async { Ok(()) }))
            .unwrap()
    };
    let batch = vec![delivery(1, 0)];
    let refused = inbox(careless).receive(batch.clone(), Attempt::of(&batch)).await.unwrap_err();
    assert_eq!(refused.code(), Code::UnsafeSetting);
    assert_eq!(receive(&inbox(pool(&folder).await), batch).await, [Receipt::Accepted]);
}

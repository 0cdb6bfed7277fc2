//! Emitting within the user's own transaction.

use onewrite_core::{
    Code, Event,
    position::partition_of,
    store::{Read, Store},
};
use onewrite_store_sqlite::{
    Options, SqliteStore, emit,
    rusqlite::{Connection, TransactionBehavior},
};

pub(crate) fn open(folder: &tempfile::TempDir) -> SqliteStore {
    SqliteStore::open(Options::new(folder.path().join("shop.db"))).unwrap()
}

pub(crate) fn connect(folder: &tempfile::TempDir) -> Connection {
    let connection = Connection::open(folder.path().join("shop.db")).unwrap();
    connection.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    connection
}

pub(crate) fn every(store: &SqliteStore) -> Read {
    let after = (0..store.source().partitions).map(|partition| (partition, 0)).collect();
    Read { after, limit: 10_000, bytes_max: 1 << 30, kinds: Vec::new() }
}

#[tokio::test]
async fn an_event_shares_the_fate_of_the_rows_around_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let mut connection = connect(&folder);
    connection.execute_batch("CREATE TABLE orders (id TEXT)").unwrap();
    for (id, keep) in [("kept", true), ("dropped", false), ("kept-2", true)] {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        tx.execute("INSERT INTO orders VALUES (?1)", [id]).unwrap();
        emit(&tx, &Event::new("OrderCreated", "Order", id)).unwrap();
        if keep { onewrite_store_sqlite::commit(tx).unwrap() } else { tx.rollback().unwrap() }
    }
    let page = store.read(every(&store)).await.unwrap();
    let ids: Vec<_> =
        page.records.iter().map(|record| record.event.aggregate_id.to_string()).collect();
    assert_eq!(ids, ["kept", "kept-2"]);
}

#[tokio::test]
async fn a_plain_insert_is_placed_like_an_emitted_event() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let connection = connect(&folder);
    for key in ["a", "order-17", "o", "주문-42", &"x".repeat(300)] {
        connection
            .execute("INSERT INTO onewrite_outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', ?1, 'Created', '{}')", [key])
            .unwrap();
    }
    let page = store.read(every(&store)).await.unwrap();
    assert_eq!(page.records.len(), 5);
    for record in page.records {
        assert_eq!(
            record.partition,
            partition_of(&record.event.aggregate_id, 256),
            "{}",
            record.event.aggregate_id
        );
        let id = record.id();
        assert_eq!((id.len(), &id[14..15]), (36, "7"), "a UUIDv7: {id}");
        assert!(record.event.time.unwrap().0 > 1_700_000_000_000_000);
    }
}

#[tokio::test]
async fn emit_refuses_what_would_break_its_promise() {
    let folder = tempfile::tempdir().unwrap();
    let _store = open(&folder);
    let mut connection = connect(&folder);
    let event = Event::new("Created", "Order", "1");
    assert_eq!(
        emit(&connection, &event).unwrap_err().code(),
        Code::UnsafeSetting,
        "no transaction"
    );
    let big = Event::new("Created", "Order", "1").bytes("text/plain", vec![0; 2 << 20]);
    let tx = connection.transaction().unwrap();
    assert_eq!(emit(&tx, &big).unwrap_err().code(), Code::EventTooLarge);
    assert_eq!(emit(&tx, &Event::new("", "Order", "1")).unwrap_err().code(), Code::InvalidEvent);
    drop(tx);
    let mut careless = connect(&folder);
    careless.pragma_update(None, "synchronous", "OFF").unwrap();
    let tx = careless.transaction().unwrap();
    assert_eq!(
        emit(&tx, &event).unwrap_err().code(),
        Code::UnsafeSetting,
        "S33: not on disk when acknowledged"
    );
    let other = Connection::open(folder.path().join("other.db")).unwrap();
    other.execute_batch("BEGIN").unwrap();
    assert_eq!(emit(&other, &event).unwrap_err().code(), Code::SchemaMissing);
}

#[tokio::test]
async fn a_write_that_fails_or_panics_leaves_its_neighbours_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let good = |id: &'static str| {
        store.write(move |tx| emit(tx, &Event::new("Created", "Order", id)).map(|_| ()))
    };
    let bad = store.write(|tx| emit(tx, &Event::new("", "Order", "bad")).map(|_| ()));
    let panics = store.write(|tx| {
        emit(tx, &Event::new("Created", "Order", "panics"))?;
        assert!(tx.is_autocommit(), "on purpose");
        Ok(())
    });
    let ends = store.write(|tx| {
        emit(tx, &Event::new("Created", "Order", "ends"))?;
        tx.execute_batch("ROLLBACK").unwrap();
        Ok(())
    });
    let (one, bad, panics, two) = tokio::join!(good("one"), bad, panics, good("two"));
    assert!(one.is_ok() && two.is_ok());
    assert_eq!(bad.unwrap_err().code(), Code::InvalidEvent);
    assert_eq!(panics.unwrap_err().code(), Code::HandlerFailed);
    assert_eq!(ends.await.unwrap_err().code(), Code::UnsafeSetting);
    let page = store.read(every(&store)).await.unwrap();
    let ids: Vec<_> = page.records.iter().map(|record| &*record.event.aggregate_id).collect();
    assert_eq!(ids, ["one", "two"]);
}

#[tokio::test]
async fn a_job_that_ends_the_shared_transaction_lets_nobody_lie() {
    for end in ["COMMIT", "ROLLBACK", "COMMIT; BEGIN IMMEDIATE", "ROLLBACK; BEGIN IMMEDIATE"] {
        end_a_shared_transaction(end).await;
    }
}

async fn end_a_shared_transaction(end: &'static str) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    // The writer is held by a job of its own until those behind it wait together.
    let (go, wait) = std::sync::mpsc::channel();
    let (held, holds) = tokio::sync::oneshot::channel();
    let (holder, mut held) = (store.clone(), Some(held));
    let first = tokio::spawn(async move {
        let work = move |_: &Connection| {
            held.take().map(|held| held.send(()));
            let _ = wait.recv();
            Ok(())
        };
        holder.write(work).await
    });
    holds.await.unwrap();
    let before = store.write(|tx| emit(tx, &Event::new("Created", "Order", "before")).map(|_| ()));
    let ends = store.write(|tx| {
        tx.execute_batch(end)
            .map_err(|error| onewrite_core::Error::new(Code::Database, "").with_source(error))
    });
    let after = store.write(|tx| emit(tx, &Event::new("Created", "Order", "after")).map(|_| ()));
    let release = async { go.send(()).unwrap() };
    let (before, ends, after, ()) = tokio::join!(before, ends, after, release);
    first.await.unwrap().unwrap();
    assert!(ends.is_err(), "{end}");
    assert_eq!(
        before.unwrap_err().code(),
        Code::CommitUnknown,
        "{end}: nobody can say whether it is there"
    );
    assert!(after.is_err());
    let page = store.read(every(&store)).await.unwrap();
    assert!(
        page.records.iter().all(|record| record.event.aggregate_id != "after"),
        "what failed left nothing"
    );
}

#[tokio::test]
async fn a_row_that_nobody_could_deliver_is_refused_or_delivered_as_well_as_possible() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let connection = connect(&folder);
    let insert = |columns: &str, values: &str| {
        let sql = format!(
            "INSERT INTO onewrite_outbox (aggregatetype, aggregateid, type, {columns}) VALUES ('Order', '1', 'Created', {values})"
        );
        connection.execute_batch(&sql)
    };
    for (columns, values) in [
        ("schema_version", "-1"),
        ("schema_version", "'new'"),
        ("time", "'today'"),
        ("partition", "70000"),
        ("id", "''"),
        ("key", "''"),
        ("user_id", "x'00'"),
    ] {
        assert!(insert(columns, values).is_err(), "{columns} = {values}");
    }
    insert("id", "CAST(x'ff41' AS TEXT)").unwrap();
    insert("partition, key", "300, 'k'").unwrap();
    insert("payload", "'{\"text\":1}'").unwrap();
    let page = store.read(every(&store)).await.unwrap();
    assert_eq!(page.records.len(), 3, "nothing stops what is behind it");
    assert_eq!(page.records[0].id(), "\u{fffd}A");
    assert_eq!(
        page.records[1].partition,
        partition_of("k", 256),
        "a made-up partition is corrected"
    );
    assert_eq!(&*page.records[2].event.data, b"{\"text\":1}");
}

#[tokio::test]
async fn an_events_own_time_decides_nothing() {
    use onewrite_core::{
        Timestamp,
        store::{Batch, Durability, From, Item, Op},
    };
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let op = |op| Batch {
        durability: Durability::Durable,
        items: vec![Item { fence: None, ops: vec![op] }],
    };
    store.commit(op(Op::Subscribe { sink: "s".into(), from: From::Beginning })).await.unwrap();
    for time in [0, i64::MAX / 2] {
        let event = Event { time: Some(Timestamp(time)), ..Event::new("Created", "Order", "1") };
        store.write(move |tx| emit(tx, &event).map(|_| ())).await.unwrap();
    }
    let now = store.now().await.unwrap();
    let oldest = store.sinks().await.unwrap()[0].oldest.unwrap();
    assert!(now.since(oldest).as_secs() < 60, "lag goes by when it was placed");
    for partition in 0..256 {
        let sink = "s".into();
        store.commit(op(Op::MoveCursor { sink, partition, sequence: 2, chain: 2 })).await.unwrap();
    }
    let later = now.plus(std::time::Duration::from_secs(60));
    store
        .commit(op(Op::Trim { before: later, history_before: Timestamp(0), limit: 100 }))
        .await
        .unwrap();
    assert!(store.read(every(&store)).await.unwrap().records.is_empty(), "retention does too");
}

#[tokio::test]
async fn the_witness_knows_any_id_and_an_empty_log() {
    use onewrite_store_sqlite::Copied;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.db");
    let store = open(&folder);
    drop(store);
    let backup = std::fs::read(&path).unwrap();
    let store = open(&folder);
    let event = Event { id: Some("order 7 paid".into()), ..Event::new("Paid", "Order", "7") };
    store.write(move |tx| emit(tx, &event).map(|_| ())).await.unwrap();
    drop(store);
    drop(open(&folder));
    // Back to before the first event, in the very same file.
    std::fs::write(&path, backup).unwrap();
    let refused = SqliteStore::open(Options::new(&path)).err().unwrap();
    assert_eq!(refused.code(), Code::StoreCopied, "{refused}");
    drop(SqliteStore::open(Options { copied: Copied::Fork(None), ..Options::new(&path) }).unwrap());
    drop(open(&folder));
}

#[tokio::test]
async fn what_was_trimmed_is_seen_with_the_page_that_would_step_over_it() {
    use onewrite_core::store::{Batch, Durability, From, Item, Op};
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let op = |op| Batch {
        durability: Durability::Durable,
        items: vec![Item { fence: None, ops: vec![op] }],
    };
    store.commit(op(Op::Subscribe { sink: "s".into(), from: From::Beginning })).await.unwrap();
    for _ in 0..3 {
        store.write(|tx| emit(tx, &Event::new("Created", "Order", "1")).map(|_| ())).await.unwrap();
    }
    assert!(store.read(every(&store)).await.unwrap().trimmed.is_empty());
    store
        .commit(op(Op::Suspend { sink: "s".into(), reason: Some("over budget".into()) }))
        .await
        .unwrap();
    let later = store.now().await.unwrap().plus(std::time::Duration::from_secs(60));
    store.commit(op(Op::Trim { before: later, history_before: later, limit: 2 })).await.unwrap();
    let page = store.read(every(&store)).await.unwrap();
    let partition = partition_of("1", 256);
    assert_eq!((page.records.len(), page.trimmed), (1, vec![(partition, 2)]));
}

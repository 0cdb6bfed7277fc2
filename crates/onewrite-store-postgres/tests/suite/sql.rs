//! What programs in other languages rely on: the table `onewrite.outbox` and the function
//! `onewrite.emit`.

use onewrite_core::{
    Code, Event, Record,
    position::partition_of,
    store::{Batch, Durability, Item, Op, Outcome, Store as _},
};
use onewrite_store_postgres::{PostgresStore, emit, emit_at_once, tokio_postgres::Client};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::{
    conformance::{Place, Postgres},
    rig::{Follower, apply, execute, number, place, state, texts, transact},
};

const COLUMNS: &str = "(aggregatetype, aggregateid, type, payload)";

async fn log(store: &PostgresStore) -> Vec<Record> {
    let mut follower = Follower::new(store);
    follower.drain(store).await;
    follower.seen
}

/// A database whose source places as `placement` says.
async fn placing(placement: &str) -> (Place, PostgresStore, Client) {
    let place = place(256).await;
    let (store, client) = (place.store().await, place.connect().await);
    execute(&client, &format!("UPDATE onewrite.source SET placement = '{placement}'")).await;
    (place, store, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn emit_fills_in_what_is_left_out() {
    for placement in ["commit", "emit"] {
        let (_place, store, client) = placing(placement).await;
        let sql = "SELECT onewrite.emit('Order', '17', 'Created')";
        let id = texts(&client, sql).await.remove(0);
        let record = log(&store).await.remove(0);
        assert_eq!((record.id(), id.len()), (&*id, 36), "{placement}");
        let event = &record.event;
        assert_eq!((&*event.kind, &*event.aggregate_type), ("Created", "Order"));
        assert_eq!((&*event.aggregate_id, &**event.order_key()), ("17", "17"));
        assert_eq!((&*event.content_type, event.schema_version), ("application/json", 1));
        assert!(event.data.is_empty() && event.headers.is_empty());
        let now = store.now().await.unwrap();
        assert!(now.since(event.time.unwrap()).as_secs() < 60);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn emit_takes_every_attribute_by_name() {
    for placement in ["commit", "emit"] {
        let (_place, store, client) = placing(placement).await;
        let sql = r#"SELECT onewrite.emit('Order', '17', 'Created', payload => '{"text":"é"}', key => 'k', id => 'e1',
            correlation_id => 'c', causation_id => 'd', headers => '[["a","1"],["b","2"]]', content_type => 'text/plain',
            schema_version => 3, traceparent => '00-a-b-01', user_id => 'ann', dedup_key => 'once')"#;
        execute(&client, sql).await;
        let expected = Event {
            id: Some("e1".into()),
            time: None,
            correlation_id: Some("c".into()),
            causation_id: Some("d".into()),
            schema_version: 3,
            traceparent: Some("00-a-b-01".into()),
            user_id: Some("ann".into()),
            dedup_key: Some("once".into()),
            ..Event::new("Created", "Order", "17")
                .key("k")
                .header("a", "1")
                .header("b", "2")
                .bytes("text/plain", "{\"text\":\"é\"}".as_bytes().to_vec())
        };
        let found = log(&store).await.remove(0).event;
        assert_eq!(Event { time: None, ..found }, expected, "{placement}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attribute_survives_whatever_the_way_in() {
    let (place, store, _) = placing("commit").await;
    let event = Event {
        time: Some(onewrite_core::Timestamp(1_234_567_890_123_456)),
        source: Some("elsewhere".into()),
        data_schema: Some("https://example.org/schema".into()),
        correlation_id: Some("주문".into()),
        ..Event::new("Created", "Order", "17")
            .header("a", "ü")
            .bytes("application/x", vec![0, 159, 146, 150])
    };
    let named = |id: &str| Event {
        id: Some(id.to_owned().into()),
        key: Some("17".into()),
        ..event.clone()
    };
    let mut client = place.connect().await;
    let tx = client.transaction().await.unwrap();
    emit(&tx, &named("one")).await.unwrap();
    emit_at_once(&tx, &named("two")).await.unwrap();
    tx.commit().await.unwrap();
    apply(&store, vec![Op::Emit(named("three").into())]).await;
    let mut found: Vec<Event> = log(&store).await.into_iter().map(|record| record.event).collect();
    found.sort_by_key(|event| event.id.clone());
    assert_eq!(found, [named("one"), named("three"), named("two")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_insert_needs_four_columns_and_may_be_deleted_at_once() {
    let (_place, store, client) = placing("commit").await;
    let insert = |id: &str| {
        format!("INSERT INTO onewrite.outbox {COLUMNS} VALUES ('Order', '{id}', 'Created', '{{}}')")
    };
    execute(&client, &insert("kept")).await;
    let deleted =
        format!("{}; DELETE FROM onewrite.outbox WHERE aggregateid = 'deleted'", insert("deleted"));
    assert_eq!(transact(&client, &deleted).await, "");
    assert_eq!(transact(&client, &format!("{}; SELECT 1 / 0", insert("undone"))).await, "22012");
    let with = format!(
        "WITH new AS ({} RETURNING n) DELETE FROM onewrite.outbox USING new WHERE false",
        insert("cte")
    );
    execute(&client, &with).await;
    let found: Vec<String> =
        log(&store).await.iter().map(|r| r.event.aggregate_id.to_string()).collect();
    assert_eq!(found, ["kept", "deleted", "cte"]);
    assert_eq!(number(&client, "SELECT count(*) FROM onewrite.outbox").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_rows_in_one_statement_keep_their_order() {
    let (_place, store, client) = placing("commit").await;
    let insert = format!(
        "INSERT INTO onewrite.outbox {COLUMNS} SELECT 'Order', 'o' || n % 300, 'Created', n::text FROM generate_series(1, 1000) n"
    );
    execute(&client, &insert).await;
    let records = log(&store).await;
    assert_eq!(records.len(), 1000);
    let mut last = std::collections::HashMap::new();
    for record in records {
        let n: u32 = std::str::from_utf8(&record.event.data).unwrap().parse().unwrap();
        assert_eq!(record.partition, partition_of(&record.event.aggregate_id, 256));
        let before = last.insert(record.event.aggregate_id.clone(), n);
        assert!(before.is_none_or(|before| before < n), "{n} came after {before:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_nobody_could_deliver_are_refused() {
    let (_place, _store, client) = placing("commit").await;
    for (columns, values) in [
        ("schema_version", "-1"),
        ("schema_version", "4294967296"),
        ("id", "''"),
        ("id", "NULL"),
        ("key", "''"),
        ("time", "NULL"),
    ] {
        let sql = format!(
            "INSERT INTO onewrite.outbox (aggregatetype, aggregateid, type, {columns}) VALUES ('Order', '1', 'Created', {values})"
        );
        let refused = state(&client.batch_execute(&sql).await);
        assert!(matches!(&*refused, "23514" | "23502"), "{columns} = {values}: {refused:?}");
    }
    for sql in [
        "('', '1', 'Created')",
        "('Order', '', 'Created')",
        "('Order', '1', '')",
        "(NULL, '1', 'Created')",
        "('Order', NULL, 'x')",
    ] {
        let sql = format!("SELECT onewrite.emit{sql}");
        for placement in ["commit", "emit"] {
            execute(&client, &format!("UPDATE onewrite.source SET placement = '{placement}'"))
                .await;
            let refused = state(&client.batch_execute(&sql).await);
            assert!(
                matches!(&*refused, "23514" | "23502" | "OW006"),
                "{sql}, at {placement}: {refused:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_made_up_partition_is_corrected_for_nobody_reads_it() {
    let (_place, store, client) = placing("commit").await;
    for partition in ["-1", "256", "300", "65534", "65535", "70000", "NULL"] {
        let sql = format!(
            "INSERT INTO onewrite.outbox (aggregatetype, aggregateid, type, partition) VALUES ('Order', 'k', 'Created', {partition})"
        );
        execute(&client, &sql).await;
        let found = "SELECT partition::bigint FROM onewrite.log ORDER BY sequence DESC LIMIT 1";
        assert_eq!(number(&client, found).await, i64::from(partition_of("k", 256)), "{partition}");
    }
    assert_eq!(log(&store).await.len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_too_large_is_refused_in_either_placing() {
    for placement in ["commit", "emit"] {
        let (_place, store, client) = placing(placement).await;
        execute(&client, "UPDATE onewrite.source SET event_bytes_max = 8192").await;
        for payload in
            ["payload => repeat('x', 8193)", "payload_bytes => decode(repeat('ab', 8193), 'hex')"]
        {
            let sql = format!("SELECT onewrite.emit('Order', '1', 'Created', {payload})");
            assert_eq!(state(&client.batch_execute(&sql).await), "OW005", "{placement}: {payload}");
        }
        execute(
            &client,
            "SELECT onewrite.emit('Order', '1', 'Created', payload => repeat('x', 8192))",
        )
        .await;
        assert_eq!(log(&store).await.len(), 1, "{placement}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_too_large_is_refused_in_rust() {
    let (place, _, client) = placing("commit").await;
    execute(&client, "UPDATE onewrite.source SET event_bytes_max = 8192").await;
    // Programs learn of it when they start.
    let store = place.store().await;
    let big = || Event::new("Created", "Order", "1").bytes("text/plain", vec![b'x'; 8193]);
    let refused = store.write(|tx| Box::pin(async move { emit(tx, &big()).await }));
    assert_eq!(refused.await.unwrap_err().code(), Code::EventTooLarge);
    let refused = store.write(|tx| Box::pin(async move { emit_at_once(tx, &big()).await }));
    assert_eq!(refused.await.unwrap_err().code(), Code::EventTooLarge);
    let item = |ops| Item { fence: None, ops };
    let small = Event::new("Created", "Order", "2");
    let items = vec![item(vec![Op::Emit(big().into())]), item(vec![Op::Emit(small.into())])];
    let outcomes = store.commit(Batch { durability: Durability::Durable, items }).await.unwrap();
    assert!(matches!(&outcomes[0], Outcome::Failed(error) if error.code() == Code::EventTooLarge));
    assert!(matches!(outcomes[1], Outcome::Applied(1)));
    assert_eq!(log(&store).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_of_is_the_same_in_both_languages() {
    let place = Postgres::default().place(1).await;
    let (_store, client) = (place.store().await, place.connect().await);
    let mut rng = StdRng::seed_from_u64(7);
    let mut keys: Vec<String> =
        ["", "a", "order-17", "주문-42", "🧀", "Ünïcode", "' \" \\ %"].map(Into::into).to_vec();
    for _ in 0..500 {
        let length = rng.random_range(0..40);
        let char = |_| loop {
            let found: char = rng.random();
            if found != '\0' {
                return found;
            }
        };
        keys.push((0..length).map(char).collect());
    }
    let partitions: Vec<i32> = (0..keys.len()).map(|_| rng.random_range(1..=65_535)).collect();
    let sql = "SELECT onewrite.partition_of(k, p) FROM unnest($1::text[], $2::int[]) WITH ORDINALITY AS a (k, p, n) ORDER BY n";
    let rows = client.query(sql, &[&keys, &partitions]).await.unwrap();
    for ((row, key), partitions) in rows.iter().zip(&keys).zip(&partitions) {
        let ours = partition_of(key, u16::try_from(*partitions).unwrap());
        assert_eq!(row.get::<_, i32>(0), i32::from(ours), "{key:?} of {partitions}");
    }
}

/// A transaction that failed is rolled back by its COMMIT; a program must not be told that it is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_overlooks_a_failure_is_not_called_committed() {
    let (_place, store, _) = placing("commit").await;
    let work = store.write(|tx| {
        Box::pin(async move {
            emit(tx, &Event::new("Created", "Order", "1")).await?;
            let _ = tx.batch_execute("SELECT 1 / 0").await;
            Ok(())
        })
    });
    let said = work.await;
    assert!(log(&store).await.is_empty(), "a failed transaction left an event");
    assert!(said.is_err(), "nothing was committed, and it is called a success");
}

/// One event that the database refuses does not take its batch with it.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_only_the_database_refuses_fails_alone() {
    let (_place, store, _) = placing("commit").await;
    let odd = [
        Event {
            time: Some(onewrite_core::Timestamp(i64::MAX)),
            ..Event::new("Created", "Order", "far")
        },
        Event {
            time: Some(onewrite_core::Timestamp(i64::MIN)),
            ..Event::new("Created", "Order", "past")
        },
    ];
    for odd in odd {
        let good = Event::new("Created", "Order", "good");
        let items = [odd.clone(), good]
            .map(|event| Item { fence: None, ops: vec![Op::Emit(event.into())] });
        let batch = Batch { durability: Durability::Durable, items: items.to_vec() };
        let outcomes = store.commit(batch).await;
        let outcomes = outcomes.unwrap_or_else(|error| panic!("{odd:?} fails its batch: {error}"));
        assert!(matches!(outcomes[1], Outcome::Applied(1)), "{outcomes:?}");
    }
}

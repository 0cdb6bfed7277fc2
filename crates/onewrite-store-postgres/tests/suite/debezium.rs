//! Tables of the form that Debezium's outbox event router reads, forwarded into the log.

use onewrite_core::{Record, store::Store as _};
use onewrite_store_postgres::{PostgresStore, tokio_postgres::Client};

use crate::{
    conformance::Place,
    rig::{Follower, execute, number, place, transact},
};

const ID: &str = "7f3c1a52-0b55-4f0e-9d7c-0a4a3f9f0001";

struct Shop {
    _place: Place,
    store: PostgresStore,
    client: Client,
}

/// A table `box` with these columns, forwarded.
async fn forwarded(columns: &str) -> Shop {
    let place = place(16).await;
    let (store, client) = (place.store().await, place.connect().await);
    let table = format!(
        "CREATE TABLE box (id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL,
             type varchar(255) NOT NULL, {columns}); SELECT onewrite.forward_table('box')"
    );
    execute(&client, &table).await;
    Shop { _place: place, store, client }
}

fn insert(payload: &str) -> String {
    format!(
        "INSERT INTO box (id, aggregatetype, aggregateid, type, payload) VALUES ('{ID}', 'Order', '17', 'Created', {payload})"
    )
}

async fn log(store: &PostgresStore) -> Vec<Record> {
    let mut follower = Follower::new(store);
    follower.drain(store).await;
    follower.seen
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_of_every_type_arrive_as_they_were() {
    for (columns, payload, content_type, bytes) in [
        (
            "payload jsonb",
            r#"'{"b": 1, "a": "é"}'"#,
            "application/json",
            "{\"a\": \"é\", \"b\": 1}".as_bytes(),
        ),
        ("payload json", r#"'{"b": 1,  "a": 2}'"#, "application/json", b"{\"b\": 1,  \"a\": 2}"),
        ("payload text", r"'plain \ text'", "application/json", br"plain \ text"),
        (
            "payload jsonb",
            r#"'{"a": "line\nbreak \"quoted\""}'"#,
            "application/json",
            br#"{"a": "line\nbreak \"quoted\""}"#,
        ),
        ("payload varchar(20)", "'short'", "application/json", b"short"),
        ("payload bytea", r"'\x00ff5c41'", "application/octet-stream", b"\x00\xff\\A"),
        ("payload jsonb", "NULL", "application/json", b""),
        ("payload bytea", "NULL", "application/octet-stream", b""),
    ] {
        let shop = forwarded(columns).await;
        execute(&shop.client, &insert(payload)).await;
        let record = log(&shop.store).await.remove(0);
        let event = record.event;
        assert_eq!(event.id.as_deref(), Some(ID), "{columns}");
        assert_eq!((&*event.aggregate_type, &*event.aggregate_id), ("Order", "17"));
        assert_eq!((&*event.kind, &*event.content_type), ("Created", content_type), "{columns}");
        assert_eq!(&*event.data, bytes, "{columns}: {:?}", String::from_utf8_lossy(&event.data));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_deleted_at_once_is_forwarded_and_one_rolled_back_is_not() {
    let shop = forwarded("payload jsonb").await;
    assert_eq!(transact(&shop.client, &format!("{}; DELETE FROM box", insert("'{}'"))).await, "");
    assert_eq!(transact(&shop.client, &format!("{}; SELECT 1 / 0", insert("'{}'"))).await, "22012");
    assert_eq!(log(&shop.store).await.len(), 1);
    assert_eq!(number(&shop.client, "SELECT count(*) FROM box").await, 0);
    // The control: a table that is not forwarded emits nothing.
    execute(&shop.client, "DROP TRIGGER onewrite_forward ON box").await;
    execute(&shop.client, &insert("'{}'")).await;
    assert_eq!(log(&shop.store).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn further_columns_are_taken_where_they_are_known() {
    let shop = forwarded("payload jsonb, tracingspancontext text, tenant text").await;
    let context = "#comment\\ntraceparent=00-aa-bb-01\\ntracestate=x";
    let sql = format!(
        "INSERT INTO box VALUES ('{ID}', 'Order', '17', 'Created', '{{}}', E'{context}', 'acme')"
    );
    execute(&shop.client, &sql).await;
    let record = log(&shop.store).await.remove(0);
    assert_eq!(record.event.traceparent.as_deref(), Some("00-aa-bb-01"));
    assert_eq!(shop.store.head().await.unwrap(), record.sequence);
}

//! Emitting within a transaction of `sqlx`.

use onewrite_core::{
    Code,
    store::{Read, Store as _},
};
use onewrite_store_mysql::sqlx::{emit, emit_all};
use sqlx::{Connection as _, Executor as _, MySqlConnection};

use crate::rig::{database, event, log, open};

#[tokio::test(flavor = "multi_thread")]
async fn events_are_committed_with_the_users_rows_or_not_at_all() {
    let url = database().await;
    let store = open(&url).await;
    let mut conn = MySqlConnection::connect(&url).await.unwrap();
    conn.execute("CREATE TABLE orders (id TEXT)").await.unwrap();
    for (id, commits) in [("kept", true), ("gone", false)] {
        let mut tx = conn.begin().await.unwrap();
        sqlx::query("INSERT INTO orders VALUES (?)").bind(id).execute(&mut *tx).await.unwrap();
        let own = event("k", id).header("a", "1").bytes("application/octet-stream", vec![0, 255]);
        assert_eq!(emit(&mut tx, &own).await.unwrap(), id);
        if commits { tx.commit().await.unwrap() } else { tx.rollback().await.unwrap() }
    }
    let after = (0..4).map(|partition| (partition, 0)).collect();
    let read = Read { after, limit: 10, bytes_max: 1 << 20, kinds: Vec::new() };
    let records = store.read(read).await.unwrap().records;
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!((record.id(), &*record.event.data), ("kept", &[0, 255][..]));
    assert_eq!(record.event.headers.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_keys_are_locked_first_and_refusals_are_named() {
    let url = database().await;
    let store = open(&url).await;
    let connected =
        tokio::try_join!(MySqlConnection::connect(&url), MySqlConnection::connect(&url));
    let (mut one, mut other) = connected.unwrap();
    let write = async |conn: &mut MySqlConnection, name: String, keys: [&'static str; 2]| {
        let events = keys.map(|key| event(key, format!("{name}-{key}")));
        let mut tx = conn.begin().await.unwrap();
        emit_all(&mut tx, &events).await.unwrap();
        tx.commit().await.unwrap();
    };
    for n in 0..20 {
        tokio::join!(
            write(&mut one, format!("one-{n}"), ["a", "b"]),
            write(&mut other, format!("other-{n}"), ["b", "a"])
        );
    }
    assert_eq!(log(&store).await.len(), 80);
    let large = event("k", "large").bytes("text/plain", vec![b'x'; 1_100_000]);
    let refused = emit(&mut one, &large).await.unwrap_err();
    assert_eq!(refused.code(), Code::EventTooLarge, "{refused}");
    assert_eq!(log(&store).await.len(), 80);
}

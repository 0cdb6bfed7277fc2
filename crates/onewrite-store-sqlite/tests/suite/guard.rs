//! The guard against the forgotten event.

use onewrite_core::{Code, Event};
use onewrite_store_sqlite::{commit, emit, guard};

use crate::emit::{connect, open};

#[tokio::test]
async fn a_change_without_an_event_cannot_commit() {
    let folder = tempfile::tempdir().unwrap();
    let _store = open(&folder);
    let mut connection = connect(&folder);
    connection
        .execute_batch("CREATE TABLE orders (id TEXT); INSERT INTO orders VALUES ('old')")
        .unwrap();
    guard::add(&connection, "ORDERS").unwrap();
    assert_eq!(guard::list(&connection).unwrap(), ["orders"]);
    for change in
        ["INSERT INTO orders VALUES ('new')", "UPDATE orders SET id = 'x'", "DELETE FROM orders"]
    {
        let tx = connection.transaction().unwrap();
        tx.execute_batch(change).unwrap();
        let error = commit(tx).unwrap_err();
        assert_eq!(error.code(), Code::EventForgotten, "{change}");
        assert!(error.to_string().contains("`orders`"), "{error}");
        // Without our help, in any language, the database refuses as well.
        connection.execute_batch("BEGIN").unwrap();
        connection.execute_batch(change).unwrap();
        assert!(
            connection.execute_batch("COMMIT").unwrap_err().to_string().contains("FOREIGN KEY"),
            "{change}"
        );
        connection.execute_batch("ROLLBACK").unwrap();
    }
    // The negative control: unguarded, the same change goes through.
    guard::remove(&connection, "orders").unwrap();
    connection.execute_batch("DELETE FROM orders").unwrap();
}

#[tokio::test]
async fn an_event_or_a_reason_pays_and_savepoints_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    let _store = open(&folder);
    let mut connection = connect(&folder);
    connection.execute_batch("CREATE TABLE orders (id TEXT)").unwrap();
    guard::add(&connection, "orders").unwrap();
    let event = Event::new("Created", "Order", "1");

    let tx = connection.transaction().unwrap();
    tx.execute_batch("INSERT INTO orders VALUES ('1')").unwrap();
    emit(&tx, &event).unwrap();
    commit(tx).unwrap();

    let tx = connection.transaction().unwrap();
    tx.execute_batch("INSERT INTO orders VALUES ('2')").unwrap();
    guard::no_event(&tx, "backfill of 2019").unwrap();
    assert!(guard::no_event(&tx, "  ").is_err(), "a reason says something");
    commit(tx).unwrap();

    // The event was rolled back with its savepoint, so the change is unpaid.
    let tx = connection.transaction().unwrap();
    tx.execute_batch("INSERT INTO orders VALUES ('3'); SAVEPOINT s").unwrap();
    emit(&tx, &event).unwrap();
    tx.execute_batch("ROLLBACK TO s; RELEASE s").unwrap();
    assert_eq!(commit(tx).unwrap_err().code(), Code::EventForgotten);

    // The change was rolled back with its savepoint, so nothing is owed.
    let tx = connection.transaction().unwrap();
    tx.execute_batch("SAVEPOINT s; INSERT INTO orders VALUES ('4'); ROLLBACK TO s; RELEASE s")
        .unwrap();
    commit(tx).unwrap();
}

#[tokio::test]
async fn a_connection_without_foreign_keys_hides_nobody_elses_debt() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let mut connection = connect(&folder);
    connection.execute_batch("CREATE TABLE orders (id TEXT)").unwrap();
    guard::add(&connection, "orders").unwrap();
    let careless = connect(&folder);
    careless.pragma_update(None, "foreign_keys", "OFF").unwrap();
    careless.execute_batch("INSERT INTO orders VALUES ('unseen')").unwrap();
    let tx = connection.transaction().unwrap();
    tx.execute_batch("INSERT INTO orders VALUES ('seen')").unwrap();
    assert_eq!(commit(tx).unwrap_err().code(), Code::EventForgotten);
    // The shared writer is not held to the careless one's debt, and still finds its own jobs'.
    store.write(|tx| emit(tx, &Event::new("Other", "Thing", "1")).map(|_| ())).await.unwrap();
    let forgets = store.write(|tx| {
        tx.execute_batch("DELETE FROM orders")
            .map_err(|error| onewrite_core::Error::new(Code::Database, "").with_source(error))
    });
    let pays = store.write(|tx| {
        tx.execute_batch("INSERT INTO orders VALUES ('paid')").unwrap();
        emit(tx, &Event::new("Created", "Order", "1")).map(|_| ())
    });
    let (forgets, pays) = tokio::join!(forgets, pays);
    assert_eq!(forgets.unwrap_err().code(), Code::EventForgotten);
    pays.unwrap();
}

#[tokio::test]
async fn only_tables_of_the_users_own_can_be_guarded() {
    let folder = tempfile::tempdir().unwrap();
    let _store = open(&folder);
    let connection = connect(&folder);
    assert_eq!(guard::add(&connection, "nothing").unwrap_err().code(), Code::NotFound);
    assert_eq!(guard::add(&connection, "onewrite_outbox").unwrap_err().code(), Code::UnsafeSetting);
    assert_eq!(guard::remove(&connection, "nothing").unwrap_err().code(), Code::NotFound);
    connection.execute_batch("CREATE TABLE \"it's \"\"odd\"\"\" (id)").unwrap();
    guard::add(&connection, "it's \"odd\"").unwrap();
    assert!(connection.execute_batch("INSERT INTO \"it's \"\"odd\"\"\" VALUES (1)").is_err());
}

#[tokio::test]
async fn upserts_owe_once_and_an_event_pays_whatever_their_conflict_clause() {
    let folder = tempfile::tempdir().unwrap();
    let _store = open(&folder);
    let mut connection = connect(&folder);
    connection.execute_batch("CREATE TABLE orders (id TEXT PRIMARY KEY, n INTEGER)").unwrap();
    guard::add(&connection, "orders").unwrap();
    let careless = connect(&folder);
    careless.pragma_update(None, "foreign_keys", "OFF").unwrap();
    careless.execute_batch("INSERT INTO orders VALUES ('stale', 0)").unwrap();
    let changes = [
        "INSERT INTO orders VALUES ('a', 1) ON CONFLICT (id) DO UPDATE SET n = n + 1",
        "INSERT OR IGNORE INTO orders VALUES ('b', 1)",
        "INSERT OR ABORT INTO orders VALUES ('c', 1)",
        "INSERT OR REPLACE INTO orders VALUES ('a', 2)",
    ];
    for change in changes {
        let tx = connection.transaction().unwrap();
        tx.execute_batch(change).unwrap();
        assert_eq!(commit(tx).unwrap_err().code(), Code::EventForgotten, "{change}");
    }
    let tx = connection.transaction().unwrap();
    for change in [&changes[..], &changes[..1]].concat() {
        tx.execute_batch(change).unwrap();
    }
    emit(&tx, &Event::new("Created", "Order", "1")).unwrap();
    commit(tx).unwrap();
}

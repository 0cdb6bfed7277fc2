//! The guard against the forgotten event.

use onewrite_core::{
    Code,
    store::{Item, Op, Outcome, Store as _},
};
use onewrite_store_postgres::{PostgresStore, emit, tokio_postgres::Client};
use onewrite_testkit::server;

use crate::{
    conformance::Place,
    rig::{apply, event, execute, number, outcome, place, state, texts, transact},
};

const FORGOTTEN: &str = "OW022";
const EMIT: &str = "SELECT onewrite.emit('Order', '1', 'Changed')";

/// Back to one row, without an event.
const RESET: &str =
    "DELETE FROM orders; INSERT INTO orders VALUES ('old'); SELECT onewrite.no_event('test')";

struct Guarded {
    place: Place,
    store: PostgresStore,
    client: Client,
}

/// A database with the guarded table `orders`, which holds one row.
async fn guarded() -> Guarded {
    let place = place(4).await;
    let (store, client) = (place.store().await, place.connect().await);
    let table = "CREATE TABLE orders (id text PRIMARY KEY, n integer DEFAULT 0); INSERT INTO orders VALUES ('old')";
    execute(&client, table).await;
    guard(&store, "orders").await;
    Guarded { place, store, client }
}

async fn guard(store: &PostgresStore, table: &str) {
    apply(store, vec![Op::Guard { table: table.to_owned().into() }]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_without_an_event_cannot_commit() {
    let Guarded { store, client, .. } = guarded().await;
    assert_eq!(store.guards().await.unwrap(), ["orders"]);
    for change in [
        "INSERT INTO orders VALUES ('new')",
        "UPDATE orders SET n = n + 1",
        "DELETE FROM orders",
        "INSERT INTO orders VALUES ('old') ON CONFLICT (id) DO UPDATE SET n = orders.n + 1",
        "WITH gone AS (DELETE FROM orders RETURNING id) SELECT count(*) FROM gone",
        "DO $$ BEGIN UPDATE orders SET n = 7; END $$",
    ] {
        assert_eq!(transact(&client, change).await, FORGOTTEN, "{change}");
        // On its own, it is its own transaction.
        assert_eq!(state(&client.batch_execute(change).await), FORGOTTEN, "{change}");
        for both in [format!("{change}; {EMIT}"), format!("{EMIT}; {change}")] {
            assert_eq!(transact(&client, &format!("{both}; SELECT 1")).await, "", "{both}");
            execute(&client, RESET).await;
        }
    }
    // Nothing changed, nothing owed.
    assert_eq!(transact(&client, "UPDATE orders SET n = 1 WHERE id = 'nobody'").await, "");
    assert_eq!(
        transact(&client, "INSERT INTO orders VALUES ('old') ON CONFLICT DO NOTHING").await,
        ""
    );
    // The control: unguarded, the same change goes through.
    apply(&store, vec![Op::Unguard { table: "orders".into() }]).await;
    assert_eq!(transact(&client, "DELETE FROM orders").await, "");
    assert!(store.guards().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_refusal_names_the_table_and_the_cure() {
    let Guarded { store, client, .. } = guarded().await;
    let refused = client.batch_execute("DELETE FROM orders").await.unwrap_err();
    let said = refused.as_db_error().unwrap();
    assert!(said.message().contains("\"orders\""), "{}", said.message());
    assert!(said.hint().unwrap().contains("onewrite.no_event"), "{:?}", said.hint());
    let refused = store.write(|tx| {
        Box::pin(async move {
            tx.execute("DELETE FROM orders", &[]).await.unwrap();
            Ok(())
        })
    });
    let refused = refused.await.unwrap_err();
    assert_eq!(refused.code(), Code::EventForgotten);
    assert!(refused.to_string().contains("\"orders\""), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn merge_is_guarded() {
    let Guarded { client, .. } = guarded().await;
    let version = number(&client, "SELECT current_setting('server_version_num')::bigint").await;
    let merge = "MERGE INTO orders o USING (VALUES ('old'), ('new')) v (id) ON o.id = v.id
        WHEN MATCHED THEN UPDATE SET n = 9 WHEN NOT MATCHED THEN INSERT VALUES (v.id)";
    let expected = if version >= 150_000 { FORGOTTEN } else { "42601" };
    assert_eq!(transact(&client, merge).await, expected);
    if version >= 150_000 {
        assert_eq!(transact(&client, &format!("{merge}; {EMIT}")).await, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn savepoints_take_events_and_changes_back() {
    let Guarded { client, .. } = guarded().await;
    let change = "UPDATE orders SET n = n + 1";
    for (sql, expected) in [
        (format!("{change}; SAVEPOINT s; {EMIT}; ROLLBACK TO s"), FORGOTTEN),
        (format!("SAVEPOINT s; {EMIT}; ROLLBACK TO s; {change}"), FORGOTTEN),
        (format!("SAVEPOINT s; {change}; ROLLBACK TO s"), ""),
        (format!("SAVEPOINT s; {change}; ROLLBACK TO s; {change}"), FORGOTTEN),
        (format!("{change}; SAVEPOINT s; {change}; ROLLBACK TO s"), FORGOTTEN),
        (format!("SAVEPOINT s; {change}; RELEASE s"), FORGOTTEN),
        (format!("SAVEPOINT s; {change}; RELEASE s; {EMIT}"), ""),
        (format!("{change}; SAVEPOINT s; {EMIT}; RELEASE s"), ""),
        (format!("SAVEPOINT s; {change}; {EMIT}; ROLLBACK TO s; {change}"), FORGOTTEN),
        (format!("{change}; SAVEPOINT s; SELECT onewrite.no_event('x'); ROLLBACK TO s"), FORGOTTEN),
        (format!("{change}; SELECT onewrite.no_event('a backfill')"), ""),
        (format!("SELECT onewrite.no_event('a backfill'); {change}"), ""),
        (format!("{change}; SELECT onewrite.no_event(' ')"), "23514"),
    ] {
        assert_eq!(transact(&client, &sql).await, expected, "{sql}");
    }
    // What one transaction stated does not serve the next one of its session.
    assert_eq!(transact(&client, &format!("{change}; {EMIT}")).await, "");
    assert_eq!(transact(&client, change).await, FORGOTTEN);
    assert_eq!(transact(&client, &format!("{change}; SELECT onewrite.no_event('x')")).await, "");
    assert_eq!(transact(&client, change).await, FORGOTTEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_emit_pays() {
    let Guarded { client, .. } = guarded().await;
    let change = "UPDATE orders SET n = n + 1";
    let insert = "INSERT INTO onewrite.outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', '1', 'Changed', '{}')";
    let router = "CREATE TABLE debezium (id uuid DEFAULT gen_random_uuid(), aggregatetype text, aggregateid text, type text, payload jsonb);
        SELECT onewrite.forward_table('debezium')";
    execute(&client, router).await;
    for pays in [
        insert.to_owned(),
        format!("{insert}; DELETE FROM onewrite.outbox"),
        "INSERT INTO debezium (aggregatetype, aggregateid, type) VALUES ('Order', '1', 'Changed')"
            .into(),
        format!("UPDATE onewrite.source SET placement = 'emit'; {EMIT}"),
    ] {
        assert_eq!(transact(&client, &format!("{change}; {pays}")).await, "", "{pays}");
        assert_eq!(transact(&client, &format!("{pays}; {change}")).await, "", "{pays}");
    }
    assert_eq!(
        transact(&client, &format!("{insert}; SET CONSTRAINTS ALL IMMEDIATE; {change}")).await,
        ""
    );
    assert_eq!(
        transact(&client, &format!("{change}; SET CONSTRAINTS ALL IMMEDIATE")).await,
        FORGOTTEN
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_is_guarded() {
    let Guarded { place, .. } = guarded().await;
    let address = server::shared_postgres().await.unwrap();
    let database = place.url.rsplit_once('/').unwrap().1;
    let copy = "COPY orders (id) FROM stdin;\none\ntwo\n\\.\n";
    let refused = address.psql(database, copy).await.unwrap_err().to_string();
    assert!(refused.contains("\"orders\""), "{refused}");
    let paid = format!("BEGIN;\n{copy}{EMIT};\nCOMMIT;\n");
    address.psql(database, &paid).await.unwrap();
    let count = address.psql(database, "SELECT count(*) FROM orders").await.unwrap();
    assert_eq!(count.trim(), "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn partitioned_tables_are_guarded_as_a_whole() {
    let Guarded { store, client, .. } = guarded().await;
    let tables = "CREATE TABLE item (id integer) PARTITION BY RANGE (id);
        CREATE TABLE item_1 PARTITION OF item FOR VALUES FROM (0) TO (10);
        CREATE TABLE item_2 (id integer)";
    execute(&client, tables).await;
    guard(&store, "item").await;
    execute(&client, "ALTER TABLE item ATTACH PARTITION item_2 FOR VALUES FROM (10) TO (20)").await;
    execute(&client, "CREATE TABLE item_3 PARTITION OF item FOR VALUES FROM (20) TO (30)").await;
    for (table, id) in
        [("item", 1), ("item", 11), ("item", 21), ("item_1", 2), ("item_2", 12), ("item_3", 22)]
    {
        let change = format!("INSERT INTO {table} VALUES ({id})");
        assert_eq!(transact(&client, &change).await, FORGOTTEN, "{change}");
        assert_eq!(transact(&client, &format!("{change}; {EMIT}")).await, "", "{change}");
    }
    // A row that moves between partitions is a change as well.
    assert_eq!(transact(&client, "UPDATE item SET id = 13 WHERE id = 1").await, FORGOTTEN);
    assert_eq!(
        transact(&client, &format!("UPDATE item SET id = 13 WHERE id = 1; {EMIT}")).await,
        ""
    );
    apply(&store, vec![Op::Unguard { table: "item".into() }]).await;
    assert_eq!(transact(&client, "DELETE FROM item").await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_transactions_are_guarded_when_they_are_prepared() {
    let Guarded { place, store, client } = guarded().await;
    let name = server::unique("prepared");
    let prepare = |sql: &str| format!("BEGIN; {sql}; PREPARE TRANSACTION '{name}'");
    execute(&client, "SET onewrite.notify = off").await;
    let change = "UPDATE orders SET n = n + 1";
    assert_eq!(state(&client.batch_execute(&prepare(change)).await), FORGOTTEN);
    execute(&client, "ROLLBACK").await;
    execute(&client, &prepare(&format!("{change}; {EMIT}"))).await;
    // It is placed, holds its partition, and is seen once it is committed, from whatever session.
    let mut follower = crate::rig::Follower::new(&store);
    follower.drain(&store).await;
    assert!(follower.seen.is_empty());
    execute(&place.connect().await, &format!("COMMIT PREPARED '{name}'")).await;
    follower.drain(&store).await;
    assert_eq!(follower.seen.len(), 1);
    execute(&client, &prepare(&format!("{change}; {EMIT}"))).await;
    execute(&place.connect().await, &format!("ROLLBACK PREPARED '{name}'")).await;
    follower.drain(&store).await;
    assert_eq!(follower.seen.len(), 1);
    assert_eq!(follower.position(1), store.head().await.unwrap(), "nothing is held any more");
}

/// What happens without `onewrite.notify = off`: refused as a whole while a relay sleeps, never half done.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_that_would_notify_is_refused() {
    let Guarded { place, store, client } = guarded().await;
    let name = server::unique("prepared");
    let sql = format!("BEGIN; {EMIT}; PREPARE TRANSACTION '{name}'");
    execute(&client, "SELECT setval('onewrite.asleep', 9000000000000000)").await;
    assert_eq!(state(&client.batch_execute(&sql).await), "0A000");
    execute(&client, "ROLLBACK; SELECT setval('onewrite.asleep', 0)").await;
    execute(&client, &sql).await;
    execute(&place.connect().await, &format!("COMMIT PREPARED '{name}'")).await;
    let mut follower = crate::rig::Follower::new(&store);
    follower.drain(&store).await;
    assert_eq!(follower.seen.len(), 1);
}

/// Limits, as documented: neither fires row triggers.
#[tokio::test(flavor = "multi_thread")]
async fn truncate_and_replicas_are_not_guarded() {
    let Guarded { client, .. } = guarded().await;
    assert_eq!(transact(&client, "TRUNCATE orders").await, "");
    let replica =
        "SET LOCAL session_replication_role = replica; INSERT INTO orders VALUES ('copied')";
    assert_eq!(transact(&client, replica).await, "");
    // Events are placed all the same.
    let emits = format!("SET LOCAL session_replication_role = replica; {EMIT}");
    assert_eq!(transact(&client, &emits).await, "");
    assert_eq!(number(&client, "SELECT count(*) FROM onewrite.log").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_tables_of_the_users_own_can_be_guarded() {
    let Guarded { store, client, .. } = guarded().await;
    let tables = "CREATE TABLE \"it's \"\"odd\"\"\" (id integer); CREATE SCHEMA shop; CREATE TABLE shop.sale (id integer);
        CREATE TABLE \"Mixed\" (id integer)";
    execute(&client, tables).await;
    for (table, code) in [
        ("nothing", Code::NotFound),
        ("onewrite.log", Code::UnsafeSetting),
        ("onewrite.outbox", Code::UnsafeSetting),
        ("pg_class", Code::UnsafeSetting),
    ] {
        let item = Item { fence: None, ops: vec![Op::Guard { table: table.into() }] };
        match outcome(&store, item).await.unwrap() {
            Outcome::Failed(error) => assert_eq!(error.code(), code, "{table}"),
            other => panic!("{table}: {other:?}"),
        }
    }
    for (table, quoted) in [
        ("it's \"odd\"", "\"it's \"\"odd\"\"\""),
        ("shop.sale", "shop.sale"),
        ("Mixed", "\"Mixed\""),
    ] {
        guard(&store, table).await;
        guard(&store, table).await; // twice is once
        let change = format!("INSERT INTO {quoted} VALUES (1)");
        assert_eq!(transact(&client, &change).await, FORGOTTEN, "{table}");
        apply(&store, vec![Op::Unguard { table: table.into() }]).await;
        assert_eq!(transact(&client, &change).await, "", "{table}");
    }
    let item = Item { fence: None, ops: vec![Op::Unguard { table: "shop.sale".into() }] };
    assert!(
        matches!(outcome(&store, item).await.unwrap(), Outcome::Failed(error) if error.code() == Code::NotFound)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_check_serves_a_transaction_of_many_rows() {
    let Guarded { store, client, .. } = guarded().await;
    let many = "INSERT INTO orders SELECT 'n' || n FROM generate_series(1, 10000) n";
    assert_eq!(transact(&client, many).await, FORGOTTEN);
    assert_eq!(transact(&client, &format!("{many}; {EMIT}")).await, "");
    let event = event("1", "paid");
    let work = store.write(|tx| {
        Box::pin(async move {
            tx.execute("UPDATE orders SET n = n + 1", &[]).await.unwrap();
            emit(tx, &event).await.map(drop)
        })
    });
    work.await.unwrap();
    assert_eq!(texts(&client, "SELECT id FROM onewrite.log WHERE id = 'paid'").await.len(), 1);
}

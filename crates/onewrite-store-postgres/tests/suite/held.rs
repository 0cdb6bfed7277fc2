//! H1, step by step: a transaction has drawn its numbers, and something holds its commit back.

use onewrite_core::store::Store as _;
use onewrite_store_postgres::{emit, emit_at_once, tokio_postgres::Client};
use tokio::task::JoinHandle;

use crate::{
    conformance::Place,
    rig::{Follower, committed, emit_all, event, execute, key_of, number, place, state, until},
};

const PARTITIONS: u16 = 4;

/// A table whose rows hold their transaction's commit back for as long as the test has the lock 7.
const BRAKE: &str = "CREATE TABLE brake (n integer);
    CREATE FUNCTION brakes() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER brakes AFTER INSERT ON brake DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION brakes()";

const WAITING: &str =
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// A key of `partition`.
fn key(partition: u16) -> String {
    key_of(partition, PARTITIONS, 0)
}

/// Begins a commit that stops when its events have their places, and waits until it has stopped.
async fn brake(place: &Place, watcher: &Client, partition: u16) -> JoinHandle<()> {
    let mut client = place.connect().await;
    let before = number(watcher, WAITING).await;
    let task = tokio::spawn(async move {
        let tx = client.transaction().await.unwrap();
        emit(&tx, &event(key(partition), "held")).await.unwrap();
        tx.batch_execute("INSERT INTO brake VALUES (1)").await.unwrap();
        tx.commit().await.unwrap();
    });
    until("the brake", async || number(watcher, WAITING).await > before).await;
    task
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_held_back_by_a_trigger_stops_its_own_partition_only() {
    let place = place(PARTITIONS).await;
    let store = place.store().await;
    let (client, lock) = (place.connect().await, place.connect().await);
    execute(&client, BRAKE).await;
    emit_all(&store, [event(key(0), "before")]).await;
    execute(&lock, "SELECT pg_advisory_lock(7)").await;
    let held = brake(&place, &client, 0).await;
    emit_all(&store, [event(key(1), "elsewhere")]).await;
    let behind = tokio::spawn({
        let store = store.clone();
        async move { emit_all(&store, [event(key(0), "behind")]).await }
    });
    let mut follower = Follower::new(&store);
    follower.drain(&store).await;
    assert_eq!(follower.ids(), ["before", "elsewhere"]);
    let (busy, free) = (follower.position(0), follower.position(1));
    assert!(busy < free, "the held partition is looked through up to {busy}, another up to {free}");
    assert_eq!(follower.position(2), store.head().await.unwrap(), "an idle partition is done");
    execute(&lock, "SELECT pg_advisory_unlock(7)").await;
    held.await.unwrap();
    behind.await.unwrap();
    follower.drain(&store).await;
    assert_eq!(follower.ids(), ["before", "elsewhere", "held", "behind"]);
}

/// What would happen to a program that draws a number without its partition's lock.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_drawn_without_the_lock_is_lost_and_noticed() {
    let place = place(PARTITIONS).await;
    let store = place.store().await;
    let (client, careless) = (place.connect().await, place.connect().await);
    execute(&client, "CREATE TABLE ledger (n serial, key text, id text)").await;
    let insert = format!(
        "BEGIN; INSERT INTO ledger (key, id) VALUES ('{0}', 'careless');
         INSERT INTO onewrite.log (segment, sequence, partition, placed_at, time, id, type, aggregatetype, aggregateid, key,
             content_type, schema_version)
         VALUES (0, nextval('onewrite.sequence'), 0, now(), now(), 'careless', 'Happened', 'Thing', '{0}', '{0}', 'text/plain', 1)",
        key(0)
    );
    execute(&careless, &insert).await;
    emit_all(&store, [event(key(0), "sound")]).await;
    execute(&client, &format!("INSERT INTO ledger (key, id) VALUES ('{}', 'sound')", key(0))).await;
    let mut follower = Follower::new(&store);
    follower.drain(&store).await;
    execute(&careless, "COMMIT").await;
    follower.drain(&store).await;
    let committed = committed(&client, "SELECT key, id FROM ledger ORDER BY n").await;
    let verdict = follower.verdict(&committed);
    assert_eq!(verdict.lost.count, 1, "nothing noticed: {verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_of_both_placings_stay_in_order_when_the_mode_changes_between_them() {
    let place = place(PARTITIONS).await;
    let store = place.store().await;
    let (client, later) = (place.connect().await, place.connect().await);
    let emits =
        |id: &str| format!("SELECT onewrite.emit('Thing', '{}', 'Happened', id => '{id}')", key(0));
    // It is to be placed with its commit, and is still open when the mode changes.
    execute(&later, &format!("BEGIN; {}", emits("with its commit"))).await;
    execute(&client, "UPDATE onewrite.source SET placement = 'emit'").await;
    execute(&client, &emits("at once")).await;
    let mut follower = Follower::new(&store);
    follower.drain(&store).await;
    assert_eq!(follower.ids(), ["at once"]);
    // One transaction of both kinds.
    execute(&later, &emits("at once, in the older transaction")).await;
    follower.drain(&store).await;
    assert_eq!(follower.position(0), follower.seen[0].sequence, "it holds its partition now");
    execute(&client, "UPDATE onewrite.source SET placement = 'commit'").await;
    execute(&later, "COMMIT").await;
    execute(&client, &emits("last")).await;
    follower.drain(&store).await;
    let expected = ["at once", "at once, in the older transaction", "with its commit", "last"];
    assert_eq!(follower.ids(), expected);
    follower.assert_ascending();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_placed_before_the_end_by_immediate_constraints_are_held_as_well() {
    let place = place(PARTITIONS).await;
    let store = place.store().await;
    let mut client = place.connect().await;
    let mut follower = Follower::new(&store);
    let tx = client.transaction().await.unwrap();
    emit(&tx, &event(key(0), "first")).await.unwrap();
    tx.batch_execute("SAVEPOINT s; SET CONSTRAINTS ALL IMMEDIATE").await.unwrap();
    emit_all(&store, [event(key(1), "elsewhere")]).await;
    follower.drain(&store).await;
    assert_eq!(follower.ids(), ["elsewhere"]);
    // What was placed in the savepoint goes back with it, and is placed again at the end.
    tx.batch_execute("ROLLBACK TO s").await.unwrap();
    emit(&tx, &event(key(0), "second")).await.unwrap();
    tx.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await.unwrap();
    emit(&tx, &event(key(0), "third")).await.unwrap();
    tx.commit().await.unwrap();
    follower.drain(&store).await;
    assert_eq!(follower.ids(), ["elsewhere", "first", "second", "third"]);
    let left = number(&place.connect().await, "SELECT count(*) FROM onewrite.outbox").await;
    assert_eq!(left, 0, "nothing stays in the outbox");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_partitions_are_locked_in_one_order_so_that_nobody_waits_in_a_circle() {
    let place = place(PARTITIONS).await;
    let store = place.store().await;
    let (client, lock) = (place.connect().await, place.connect().await);
    execute(&client, BRAKE).await;
    execute(&lock, "SELECT pg_advisory_lock(7)").await;
    // Each emits to all partitions, one of them backwards.
    let writers: Vec<JoinHandle<String>> = [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]]
        .into_iter()
        .map(|order| {
            let place = place.url.clone();
            tokio::spawn(async move {
                let client = crate::conformance::connect(&place).await;
                let emits = order.map(|partition| {
                    format!("SELECT onewrite.emit('Thing', '{}', 'Happened')", key(partition))
                });
                let sql =
                    format!("BEGIN; {}; INSERT INTO brake VALUES (1); COMMIT", emits.join("; "));
                state(&client.batch_execute(&sql).await)
            })
        })
        .collect();
    until("the brake", async || number(&client, WAITING).await > 0).await;
    execute(&lock, "SELECT pg_advisory_unlock(7)").await;
    for writer in writers {
        assert_eq!(writer.await.unwrap(), "", "a writer was refused");
    }
    let mut follower = Follower::new(&store);
    follower.drain(&store).await;
    assert_eq!(follower.seen.len(), 12);
    follower.assert_ascending();
}

/// The control of the test above, and the limit that `emit_at_once` states: in another order, a circle.
#[tokio::test(flavor = "multi_thread")]
async fn events_placed_at_once_in_another_order_can_deadlock_and_one_side_is_told() {
    let place = place(PARTITIONS).await;
    let store = place.store().await;
    let (mut one, mut two) = (place.connect().await, place.connect().await);
    let (one, two) = (one.transaction().await.unwrap(), two.transaction().await.unwrap());
    emit_at_once(&one, &event(key(0), "one-0")).await.unwrap();
    emit_at_once(&two, &event(key(1), "two-1")).await.unwrap();
    let (left, right) = (event(key(1), "one-1"), event(key(0), "two-0"));
    let first = async {
        let emitted = emit_at_once(&one, &left).await;
        let ended = if emitted.is_ok() { one.commit().await } else { one.rollback().await };
        ended.unwrap();
        emitted
    };
    let second = async {
        let emitted = emit_at_once(&two, &right).await;
        let ended = if emitted.is_ok() { two.commit().await } else { two.rollback().await };
        ended.unwrap();
        emitted
    };
    let (first, second) = tokio::join!(first, second);
    let (won, lost) = match (first, second) {
        (Ok(_), Err(error)) => ("one", error),
        (Err(error), Ok(_)) => ("two", error),
        other => panic!("one of both gives way: {other:?}"),
    };
    assert_eq!(lost.code(), onewrite_core::Code::StoreBusy, "{lost}");
    let mut follower = Follower::new(&store);
    follower.drain(&store).await;
    assert!(follower.ids().iter().all(|id| id.starts_with(won)), "{:?}", follower.ids());
    assert_eq!(follower.seen.len(), 2);
}

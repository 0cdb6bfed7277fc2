//! H2: a transaction that stays open for long must not stop, hide or lose anything of others.

use onewrite_broker_local::NullSink;
use onewrite_core::{
    Timestamp,
    store::{From, Op, Store as _},
};
use onewrite_store_postgres::emit_at_once;
use onewrite_testkit::server;

use crate::{
    conformance::connect,
    rig::{
        Follower, Running, SINK, Shared, apply, emit_all, event, execute, key_of, place, relaying,
        settled, sound, until,
    },
};

const PARTITIONS: u16 = 4;

fn key(partition: u16) -> String {
    key_of(partition, PARTITIONS, 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_transactions_here_and_elsewhere_hold_nothing_up() {
    let place = place(PARTITIONS).await;
    let store = place.store().await;
    let idle = place.connect().await;
    execute(&idle, "CREATE TABLE other (n integer); BEGIN; INSERT INTO other VALUES (1)").await;
    let server = server::shared_postgres().await.unwrap();
    let neighbour = connect(&server.url("postgres")).await;
    execute(
        &neighbour,
        "BEGIN; SELECT txid_current(); SELECT pg_advisory_xact_lock(1869505911, 1)",
    )
    .await;
    let snapshot = place.connect().await;
    execute(&snapshot, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT txid_current()").await;
    let mut follower = Follower::new(&store);
    for round in 0..5 {
        let ids =
            (0..PARTITIONS).map(|partition| event(key(partition), format!("{round}-{partition}")));
        emit_all(&store, ids).await;
        follower.drain(&store).await;
        let head = store.head().await.unwrap();
        for partition in 0..PARTITIONS {
            assert_eq!(follower.position(partition), head, "partition {partition} stands still");
        }
    }
    assert_eq!(follower.seen.len(), 20);
    // The idle one emits at last, and is not lost either.
    execute(&idle, "SELECT onewrite.emit('Thing', 'late', 'Happened', id => 'late'); COMMIT").await;
    follower.drain(&store).await;
    assert_eq!(follower.ids().last(), Some(&"late"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_placed_at_once_holds_back_its_own_partition_only() {
    let place = place(PARTITIONS).await;
    let store = place.store().await;
    let mut client = place.connect().await;
    apply(&store, vec![Op::Subscribe { sink: SINK.into(), from: From::Beginning }]).await;
    let open = client.transaction().await.unwrap();
    let placed = emit_at_once(&open, &event(key(0), "open")).await.unwrap();
    emit_all(
        &store,
        (1..PARTITIONS).map(|partition| event(key(partition), format!("p{partition}"))),
    )
    .await;
    let mut follower = Follower::new(&store);
    follower.drain(&store).await;
    assert_eq!(follower.seen.len(), 3);
    assert!(follower.position(0) < placed.sequence);
    assert_eq!(follower.position(3), store.head().await.unwrap());
    // Retention goes on around it.
    let cursors = (0..PARTITIONS).map(|partition| {
        let sequence = follower.position(partition);
        Op::MoveCursor { sink: SINK.into(), partition, sequence, chain: sequence }
    });
    apply(&store, cursors.collect()).await;
    let trim =
        || Op::Trim { before: Timestamp(i64::MAX / 2), history_before: Timestamp(0), limit: 100 };
    assert_eq!(apply(&store, vec![trim()]).await, 3);
    open.commit().await.unwrap();
    follower.drain(&store).await;
    assert_eq!(follower.ids().last(), Some(&"open"));
    // And does not forget what was placed before what it has trimmed, and came later.
    let mut again = Follower::of([0]);
    again.drain(&store).await;
    assert_eq!(again.ids(), ["open"], "it is in the log until its sink has it");
    assert_eq!(store.sinks().await.unwrap()[0].behind, 1);
}

/// Many numbers may be drawn elsewhere while one partition is busy; what it has meanwhile is found.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_partition_is_read_however_far_it_lies_behind() {
    let place = place(2).await;
    let store = place.store().await;
    let mut client = place.connect().await;
    let mine = key_of(0, 2, 0);
    emit_all(&store, [event(&mine, "first")]).await;
    let mut follower = Follower::of([0]);
    follower.drain(&store).await;
    // As if others had emitted as many.
    execute(&client, "SELECT setval('onewrite.sequence', 250000)").await;
    emit_all(&store, [event(&mine, "second")]).await;
    let open = client.transaction().await.unwrap();
    emit_at_once(&open, &event(&mine, "open")).await.unwrap();
    follower.drain(&store).await;
    assert_eq!(
        follower.ids(),
        ["first", "second"],
        "what is committed before the open one is seen"
    );
    open.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_delivers_around_an_open_transaction_and_then_its_event() {
    let place = place(PARTITIONS).await;
    let store = place.store().await;
    let counting = Shared::<NullSink>::default();
    let mut client = place.connect().await;
    let open = client.transaction().await.unwrap();
    emit_at_once(&open, &event(key(0), "open")).await.unwrap();
    let relay = Running::relay(&store, counting.clone(), relaying(SINK, sound()), "one");
    emit_all(
        &store,
        (1..PARTITIONS).map(|partition| event(key(partition), format!("p{partition}"))),
    )
    .await;
    until("the others", async || counting.0.deliveries() == 3).await;
    open.commit().await.unwrap();
    until("the open one", async || counting.0.deliveries() == 4).await;
    settled(&store, SINK).await;
    relay.stop().await;
}

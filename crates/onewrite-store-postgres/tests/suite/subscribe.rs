//! Where a new sink starts, while others write.

use onewrite_core::{
    Timestamp,
    store::{From, Op, Read, Store as _},
};
use onewrite_store_postgres::{PostgresStore, emit_at_once, tokio_postgres::Client};

use crate::{
    conformance::Place,
    rig::{apply, emit_all, event, execute, key_of, number, place, until},
};

const PARTITIONS: u16 = 4;

fn key(partition: u16) -> String {
    key_of(partition, PARTITIONS, 0)
}

async fn subscribe(store: &PostgresStore, sink: &'static str, from: From) {
    apply(store, vec![Op::Subscribe { sink: sink.into(), from }]).await;
}

/// What a sink gets from where it starts.
async fn gets(store: &PostgresStore, sink: &str) -> Vec<String> {
    let cursors = store.cursors(sink).await.unwrap();
    let after = cursors.iter().map(|cursor| (cursor.partition, cursor.sequence)).collect();
    let read = Read { after, limit: 1_000, bytes_max: 1 << 24, kinds: Vec::new() };
    let page = store.read(read).await.unwrap();
    let mut ids: Vec<String> = page.records.iter().map(|record| record.id().to_owned()).collect();
    ids.sort_unstable();
    ids
}

/// An event in each partition.
async fn emit_each(store: &PostgresStore, name: &str) {
    let events =
        (0..PARTITIONS).map(|partition| event(key(partition), format!("{name}-{partition}")));
    emit_all(store, events).await;
}

fn each(name: &str) -> Vec<String> {
    (0..PARTITIONS).map(|partition| format!("{name}-{partition}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_starts_where_it_was_told_to() {
    let place = place(PARTITIONS).await;
    let store = place.store().await;
    emit_each(&store, "a").await;
    let between = store.now().await.unwrap();
    emit_each(&store, "b").await;
    subscribe(&store, "beginning", From::Beginning).await;
    subscribe(&store, "now", From::Now).await;
    subscribe(&store, "between", From::Time(between)).await;
    subscribe(&store, "always", From::Time(Timestamp(0))).await;
    let later = store.now().await.unwrap();
    subscribe(&store, "later", From::Time(later)).await;
    emit_each(&store, "c").await;
    let [a, b, c] = ["a", "b", "c"].map(each);
    assert_eq!(gets(&store, "beginning").await, [&a[..], &b, &c].concat());
    assert_eq!(gets(&store, "always").await, [&a[..], &b, &c].concat());
    assert_eq!(gets(&store, "between").await, [&b[..], &c].concat());
    assert_eq!(gets(&store, "now").await, c);
    assert_eq!(gets(&store, "later").await, c);
    // Again is nothing new.
    subscribe(&store, "now", From::Beginning).await;
    assert_eq!(gets(&store, "now").await, c);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_open_is_still_to_come() {
    let place = place(PARTITIONS).await;
    let store = place.store().await;
    emit_each(&store, "a").await;
    let mut client = place.connect().await;
    let open = client.transaction().await.unwrap();
    let began = store.now().await.unwrap();
    emit_at_once(&open, &event(key(0), "open")).await.unwrap();
    let others = (1..PARTITIONS).map(|partition| event(key(partition), format!("b-{partition}")));
    emit_all(&store, others).await;
    subscribe(&store, "now", From::Now).await;
    subscribe(&store, "time", From::Time(began)).await;
    subscribe(&store, "later", From::Time(store.now().await.unwrap())).await;
    open.commit().await.unwrap();
    assert_eq!(gets(&store, "now").await, ["open"], "and nothing that was there before");
    assert_eq!(gets(&store, "time").await, ["b-1", "b-2", "b-3", "open"]);
    assert_eq!(gets(&store, "later").await, ["open"], "it was placed before, and committed after");
}

/// Makes the subscription stop where it asks how far everything is decided, until the lock 8 is free.
const STOP: &str = r"DO $$ BEGIN
    EXECUTE regexp_replace(pg_get_functiondef('onewrite.horizon'::regproc), '\mBEGIN\M', 'BEGIN PERFORM pg_advisory_xact_lock_shared(8);');
END $$";

const WAITING: &str =
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 8 AND NOT granted
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// Subscribes, and emits while the subscription is under way.
async fn subscribe_slowly(place: &Place, client: &Client, from: From) -> PostgresStore {
    let store = place.store().await;
    let lock = place.connect().await;
    execute(client, STOP).await;
    execute(&lock, "SELECT pg_advisory_lock(8)").await;
    let slow = tokio::spawn({
        let store = store.clone();
        async move { subscribe(&store, "slow", from).await }
    });
    until("the subscription's stop", async || number(client, WAITING).await == 1).await;
    emit_each(&store, "meanwhile").await;
    execute(&lock, "SELECT pg_advisory_unlock(8)").await;
    slow.await.unwrap();
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_while_a_sink_subscribes_from_a_time_is_not_stepped_over() {
    let place = place(PARTITIONS).await;
    let client = place.connect().await;
    let began = place.store().await.now().await.unwrap();
    let store = subscribe_slowly(&place, &client, From::Time(began)).await;
    emit_each(&store, "then").await;
    assert_eq!(gets(&store, "slow").await, [each("meanwhile"), each("then")].concat());
}

/// The same for `now`: what was committed before it was subscribed may be left out, as a whole.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_after_the_subscription_comes_whatever_was_committed_meanwhile() {
    let place = place(PARTITIONS).await;
    let client = place.connect().await;
    let store = subscribe_slowly(&place, &client, From::Now).await;
    emit_each(&store, "then").await;
    assert_eq!(gets(&store, "slow").await, each("then"));
}

/// Writers go on while sinks come; each sink must get, of each partition, an unbroken end of the log.
#[tokio::test(flavor = "multi_thread")]
async fn sinks_that_come_while_writers_run_get_an_unbroken_end() {
    let place = place(PARTITIONS).await;
    let store = place.store().await;
    let writers: Vec<_> = (0..4_u16)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for turn in 0..40 {
                    emit_all(
                        &store,
                        [event(key((writer + turn) % PARTITIONS), format!("{writer}-{turn}"))],
                    )
                    .await;
                }
            })
        })
        .collect();
    let mut times = Vec::new();
    for n in 0..10 {
        let (now, time) = (format!("now-{n}"), format!("time-{n}"));
        apply(&store, vec![Op::Subscribe { sink: now.clone().into(), from: From::Now }]).await;
        let since = store.now().await.unwrap();
        apply(&store, vec![Op::Subscribe { sink: time.clone().into(), from: From::Time(since) }])
            .await;
        times.push((time, since));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let client = place.connect().await;
    for (sink, since) in times {
        let placed = i64::try_from(gets(&store, &sink).await.len()).unwrap();
        let sql = format!(
            "SELECT count(*) FROM onewrite.log WHERE placed_at >= to_timestamp({}.{:06})",
            since.0 / 1_000_000,
            since.0 % 1_000_000
        );
        let expected = number(&client, &sql).await;
        assert!(placed >= expected, "{sink} gets {placed} of {expected}");
    }
    let behind = store.sinks().await.unwrap();
    assert_eq!(behind.len(), 20);
}

//! H12: the log must stay bounded, and quick to read, whatever old snapshot somebody holds.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use onewrite_broker_local::NullSink;
use onewrite_core::{
    Event,
    sabotage::{Defect, Sabotage},
    store::{From, Op, Read, Store as _},
};
use onewrite_engine::{Retention, Sweeper};
use onewrite_store_postgres::{PostgresStore, tokio_postgres::Client};
use rand::{RngCore as _, SeedableRng as _, rngs::SmallRng};

use crate::conformance::Place;
use crate::rig::{
    Follower, Running, SINK, apply, broken, emit_all, event, execute, extended, number, place_with,
    relaying, settled, sound, until, within,
};

const PARTITIONS: u16 = 4;
const ROUND: usize = 1_000;

/// Rows that may wait for the sweeper while the writers go on.
const ROWS_MAX: i64 = 4 * ROUND as i64;

/// What the segments of some rounds take, with their indexes.
const BYTES_MAX: i64 = 16 << 20;

const RETENTION: Retention =
    Retention { log: Duration::ZERO, history: Duration::ZERO, every: Duration::from_millis(5) };

const ROWS: &str = "SELECT count(*) FROM onewrite.log";
const BYTES: &str = "SELECT sum(pg_total_relation_size(inhrelid))::bigint FROM pg_inherits WHERE inhparent = 'onewrite.log'::regclass";

fn rounds() -> usize {
    if extended() { 400 } else { 50 }
}

struct Growth {
    /// The most rows and bytes that the log had at the end of a round.
    rows: i64,
    bytes: i64,
    rounds: usize,
    /// How long the next page took to read at the beginning, and at the end.
    first: Duration,
    last: Duration,
    old_snapshot_sees: i64,
}

/// The quickest of some reads of the newest page.
async fn read_time(store: &PostgresStore, client: &Client) -> Duration {
    let head = store.head().await.unwrap();
    let after = (0..PARTITIONS).map(|partition| (partition, head.saturating_sub(10))).collect();
    let read = Read { after, limit: 100, bytes_max: 1 << 20, kinds: Vec::new() };
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let began = Instant::now();
        store.read(read.clone()).await.unwrap();
        best = best.min(began.elapsed());
    }
    assert!(number(client, "SELECT 1::bigint").await == 1);
    best
}

async fn round(store: &PostgresStore, round: usize) {
    let events = (0..ROUND).map(|n| {
        let event = event(format!("k{}", n % 40), format!("{round}-{n}"));
        Op::Emit(Event { ..event.bytes("text/plain", vec![b'x'; 300]) }.into())
    });
    apply(store, events.collect()).await;
}

async fn emit_and_trim(sabotage: Sabotage) -> Growth {
    let place = place_with(PARTITIONS, sabotage).await;
    let (store, client) = (place.store().await, place.connect().await);
    apply(&store, vec![Op::Subscribe { sink: SINK.into(), from: From::Beginning }]).await;
    let relay = Running::relay(&store, NullSink::default(), relaying(SINK, sound()), "one");
    let sweeper = Sweeper::new(Arc::new(store.clone()), RETENTION);
    let sweeper = Running::start(|shutdown| sweeper.run(shutdown));
    execute(&client, "CREATE TABLE ledger (n integer); INSERT INTO ledger VALUES (1)").await;
    let old = place.connect().await;
    execute(&old, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM ledger").await;
    let mut growth = Growth {
        rows: 0,
        bytes: 0,
        rounds: 0,
        first: Duration::ZERO,
        last: Duration::ZERO,
        old_snapshot_sees: 0,
    };
    for count in 0..rounds() {
        round(&store, count).await;
        // Retention keeps up unless something holds it back; then the log is measured as it is.
        let swept = async || number(&client, ROWS).await <= ROWS_MAX;
        within(Duration::from_secs(3), swept).await;
        growth.rows = growth.rows.max(number(&client, ROWS).await);
        growth.bytes = growth.bytes.max(number(&client, BYTES).await);
        growth.rounds = count + 1;
        if count == 0 {
            growth.first = read_time(&store, &client).await;
        }
        if growth.rows > ROWS_MAX {
            break;
        }
    }
    settled(&store, SINK).await;
    growth.last = read_time(&store, &client).await;
    execute(&client, "INSERT INTO ledger VALUES (2)").await;
    growth.old_snapshot_sees = number(&old, "SELECT count(*) FROM ledger").await;
    sweeper.stop().await;
    relay.stop().await;
    growth
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_stays_bounded_and_quick_under_an_old_snapshot() {
    let growth = emit_and_trim(sound()).await;
    assert_eq!(growth.old_snapshot_sees, 1, "the old snapshot moved");
    assert_eq!(growth.rounds, rounds());
    assert!(growth.rows <= ROWS_MAX, "{} rows", growth.rows);
    assert!(growth.bytes <= BYTES_MAX, "{} bytes", growth.bytes);
    let limit = growth.first * 5 + Duration::from_millis(5);
    assert!(
        growth.last <= limit,
        "a page took {:?} at first, and {:?} in the end",
        growth.first,
        growth.last
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_retention_the_log_grows() {
    let growth = emit_and_trim(broken(Defect::NoRetention)).await;
    assert!(growth.rows > ROWS_MAX, "nothing noticed: {} rows", growth.rows);
}

/// What is trimmed is decided by cursors and age; a dump that reads the log delays only the emptying.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_the_log_delays_the_emptying_and_nothing_else() {
    let place = place_with(PARTITIONS, sound()).await;
    let (store, client) = (place.store().await, place.connect().await);
    let dump = place.connect().await;
    emit_all(&store, [event("k", "first")]).await;
    execute(&dump, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM onewrite.log").await;
    let sweeper = Sweeper::new(Arc::new(store.clone()), RETENTION);
    until("the trim", async || {
        sweeper.sweep().await.unwrap();
        !store.trimmed().await.unwrap().is_empty()
    })
    .await;
    for _ in 0..12 {
        emit_all(&store, [event("k", "more")]).await;
        sweeper.sweep().await.unwrap();
    }
    assert!(number(&client, ROWS).await > 0, "the dump reads on");
    assert_eq!(number(&dump, ROWS).await, 1);
    execute(&dump, "COMMIT").await;
    until("the emptying", async || {
        sweeper.sweep().await.unwrap();
        emit_all(&store, [event("k", "more")]).await;
        number(&client, "SELECT count(*) FROM onewrite.log WHERE id = 'first'").await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_are_emptied_though_every_sweep_finds_something() {
    let place = place_with(PARTITIONS, sound()).await;
    let (store, client) = (place.store().await, place.connect().await);
    apply(&store, vec![Op::Subscribe { sink: SINK.into(), from: From::Beginning }]).await;
    let sweeper = Sweeper::new(Arc::new(store.clone()), RETENTION);
    let mut follower = Follower::new(&store);
    emit_all(&store, [event("k", "first")]).await;
    until("the emptying", async || {
        emit_all(&store, [event("k", "more")]).await;
        settle(&store, &mut follower).await;
        let trimmed = sweeper.sweep().await.unwrap();
        assert!(trimmed > 0, "this sweep was to find something");
        number(&client, "SELECT count(*) FROM onewrite.log WHERE id = 'first'").await == 0
    })
    .await;
}

const OUTBOX_SIZE: &str = "SELECT pg_total_relation_size('onewrite.outbox')";
const CURSOR_SIZE: &str = "SELECT pg_total_relation_size('onewrite.cursor')";

/// A database whose tables grow, with somebody who holds an old snapshot.
async fn growing(sabotage: Sabotage) -> (Place, PostgresStore, Client, Client) {
    let place = place_with(PARTITIONS, sabotage).await;
    let (store, client) = (place.store().await, place.connect().await);
    apply(&store, vec![Op::Subscribe { sink: SINK.into(), from: From::Beginning }]).await;
    let old = place.connect().await;
    execute(&old, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()").await;
    (place, store, client, old)
}

/// Leaves dead rows in the outbox; how many bytes they take.
async fn grow_outbox(store: &PostgresStore, client: &Client) -> i64 {
    let mut noise = SmallRng::seed_from_u64(7);
    for n in 0..50 {
        // Nothing that could be compressed.
        let mut data = vec![0; 900_000];
        noise.fill_bytes(&mut data);
        emit_all(store, [event("k", n.to_string()).bytes("application/octet-stream", data)]).await;
    }
    execute(client, "VACUUM onewrite.outbox").await;
    let grown = number(client, OUTBOX_SIZE).await;
    assert!(grown > 40_000_000, "the snapshot does not keep dead rows: {grown} bytes");
    grown
}

/// Leaves dead rows among the cursors; how many bytes they take.
async fn grow_cursors(client: &Client) -> i64 {
    let moves = "DO $$ BEGIN FOR n IN 1..8000 LOOP
        UPDATE onewrite.cursor SET sequence = sequence + 1, reason = repeat('x', 1500), retry_at = clock_timestamp() WHERE partition = n % 4;
    END LOOP; END $$";
    execute(client, moves).await;
    let grown = number(client, CURSOR_SIZE).await;
    assert!(grown > 8 << 20, "the snapshot does not keep dead rows: {grown} bytes");
    grown
}

#[tokio::test(flavor = "multi_thread")]
async fn without_rewriting_outbox_and_cursors_stay_as_large_as_they_were() {
    let (_place, store, client, _old) = growing(broken(Defect::NoRewrite)).await;
    let grown = (grow_outbox(&store, &client).await, grow_cursors(&client).await);
    let sweeper = Sweeper::new(Arc::new(store.clone()), RETENTION);
    for _ in 0..5 {
        sweeper.sweep().await.unwrap();
    }
    let left = (number(&client, OUTBOX_SIZE).await, number(&client, CURSOR_SIZE).await);
    assert!(left.0 >= grown.0 && left.1 >= grown.1, "nothing noticed: {grown:?}, {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outbox_stays_bounded_under_an_old_snapshot() {
    let (place, store, client, _old) = growing(sound()).await;
    let (size, grown) = (OUTBOX_SIZE, grow_outbox(&store, &client).await);
    // Somebody who is in the middle of emitting is not waited for.
    let slow = place.connect().await;
    execute(&slow, "BEGIN; SELECT onewrite.emit('Thing', 'slow', 'Happened', id => 'slow')").await;
    let sweeper = Sweeper::new(Arc::new(store.clone()), RETENTION);
    sweeper.sweep().await.unwrap();
    assert_eq!(number(&client, size).await, grown, "it was emptied under a writer's hands");
    execute(&slow, "COMMIT").await;
    until("the emptying", async || {
        sweeper.sweep().await.unwrap();
        number(&client, size).await < 1_000_000
    })
    .await;
    emit_all(&store, [event("k", "after")]).await;
    let mut follower = Follower::new(&store);
    follower.drain(&store).await;
    assert_eq!(follower.ids().last(), Some(&"after"));
    assert!(follower.ids().contains(&"slow"));
}

/// Rows that are written again and again are found as quickly as before, and none is lost.
#[tokio::test(flavor = "multi_thread")]
async fn cursors_stay_small_under_an_old_snapshot() {
    let (place, store, client, old) = growing(sound()).await;
    let (size, grown) = (CURSOR_SIZE, grow_cursors(&client).await);
    let before = store.cursors(SINK).await.unwrap();
    assert_eq!(before.iter().map(|cursor| cursor.sequence).sum::<u64>(), 8_000);
    let sweeper = Sweeper::new(Arc::new(store.clone()), RETENTION);
    // Not while somebody writes there.
    let slow = place.connect().await;
    execute(&slow, "BEGIN; UPDATE onewrite.cursor SET chain = 7").await;
    sweeper.sweep().await.unwrap();
    assert!(number(&client, size).await >= grown, "it was written anew under a writer's hands");
    execute(&slow, "ROLLBACK").await;
    until("the rewriting", async || {
        sweeper.sweep().await.unwrap();
        number(&client, size).await < 1 << 20
    })
    .await;
    assert_eq!(store.cursors(SINK).await.unwrap(), before);
    // The old snapshot, which could not see them as they are now, must not see them as they are not.
    let seen = old.batch_execute("UPDATE onewrite.cursor SET chain = 8 WHERE partition = 0").await;
    assert!(seen.is_ok(), "{seen:?}");
    execute(&old, "COMMIT").await;
    assert_eq!(
        store.cursors(SINK).await.unwrap(),
        before,
        "an old snapshot wrote to what it did not see"
    );
}

/// A dump that saw the table empty lacks the cursors of a sink it has: wherever that is told to start, what it
/// had not settled must come.
#[tokio::test(flavor = "multi_thread")]
async fn a_known_sink_without_cursors_begins_with_what_is_left() {
    let place = place_with(PARTITIONS, sound()).await;
    let (store, client) = (place.store().await, place.connect().await);
    let subscribe = || vec![Op::Subscribe { sink: SINK.into(), from: From::Now }];
    apply(&store, subscribe()).await;
    emit_all(&store, [event("k", "unsettled")]).await;
    execute(&client, "DELETE FROM onewrite.cursor").await;
    apply(&store, subscribe()).await;
    let cursors = store.cursors(SINK).await.unwrap();
    assert_eq!(cursors.len(), usize::from(PARTITIONS));
    assert!(cursors.iter().all(|cursor| cursor.sequence == 0), "{cursors:?}");
    let rewritten = "SELECT onewrite.rewrite('inbox', 0)::integer::bigint";
    assert_eq!(number(&client, rewritten).await, 0, "marks are written anew");
}

/// A transaction keeps its event back until the log around it is trimmed and its segment is not in use.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_with_a_late_commit_is_not_emptied_before_it_is_delivered() {
    let place = place_with(PARTITIONS, sound()).await;
    let (store, client) = (place.store().await, place.connect().await);
    apply(&store, vec![Op::Subscribe { sink: SINK.into(), from: From::Beginning }]).await;
    let late = place.connect().await;
    execute(&client, "UPDATE onewrite.source SET placement = 'emit'").await;
    execute(&late, "BEGIN; SELECT onewrite.emit('Thing', 'late', 'Happened', id => 'late')").await;
    let sweeper = Sweeper::new(Arc::new(store.clone()), RETENTION);
    let partition = onewrite_core::position::partition_of("late", PARTITIONS);
    let key = (0..).map(|n| format!("k{n}"));
    let other = key
        .into_iter()
        .find(|key| onewrite_core::position::partition_of(key, PARTITIONS) != partition)
        .unwrap();
    let mut follower = Follower::new(&store);
    let segment = "SELECT segment::bigint FROM onewrite.source";
    // Until the segment that the late one wrote to is no longer written, and what is around it is trimmed.
    until("another segment", async || {
        emit_all(&store, [event(&other, "other")]).await;
        settle(&store, &mut follower).await;
        sweeper.sweep().await.unwrap();
        number(&client, segment).await >= 2
    })
    .await;
    execute(&late, "COMMIT").await;
    for _ in 0..20 {
        sweeper.sweep().await.unwrap();
    }
    settle(&store, &mut follower).await;
    assert_eq!(follower.ids().last(), Some(&"late"), "it was emptied with its segment");
    // Delivered, it goes as the others did.
    until("the emptying", async || {
        sweeper.sweep().await.unwrap();
        number(&client, "SELECT count(*) FROM onewrite.log WHERE id = 'late'").await == 0
    })
    .await;
}

/// Reads to the end, and moves the sink's cursors there.
async fn settle(store: &PostgresStore, follower: &mut Follower) {
    follower.drain(store).await;
    let moves = (0..PARTITIONS).map(|partition| {
        let sequence = follower.position(partition);
        Op::MoveCursor { sink: SINK.into(), partition, sequence, chain: sequence }
    });
    apply(store, moves.collect()).await;
}

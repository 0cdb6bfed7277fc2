//! Sinks: their cursors, where they start, and what retention may delete behind them.

use std::time::Duration;

use onewrite_core::{
    Sequence, Timestamp,
    flow::Whereabouts,
    position::START,
    store::{Cursor, Find, From, Op, Store},
};

use super::{StoreFixture, apply, emit, key_of, log, named, same, sequences};

const EVER: Timestamp = Timestamp(i64::MAX);
const NEVER: Timestamp = Timestamp(0);

fn new_sink(sink: &'static str, from: From) -> Op {
    Op::Subscribe { sink: sink.into(), from }
}

fn moved(sink: &'static str, partition: u16, sequence: Sequence) -> Op {
    Op::MoveCursor { sink: sink.into(), partition, sequence, chain: sequence }
}

async fn trim_all(store: &dyn Store, limit: u32) -> u64 {
    apply(store, vec![Op::Trim { before: EVER, history_before: NEVER, limit }]).await
}

/// A sink has one cursor for each partition; it keeps where it is, its failures and why.
pub async fn cursors(fixture: &dyn StoreFixture) {
    let place = fixture.place(3).await;
    let store = place.open().await;
    same("cursors: of a sink unheard of", store.cursors("search").await.unwrap(), Vec::new());
    apply(&*store, vec![new_sink("search", From::Beginning), new_sink("mail", From::Beginning)])
        .await;
    let fresh = |partition| Cursor {
        partition,
        sequence: START,
        chain: START,
        attempts: 0,
        retry_at: None,
        reason: None,
        parked: Vec::new(),
    };
    let expected: Vec<Cursor> = (0..3).map(fresh).collect();
    same("cursors: of a new sink", store.cursors("search").await.unwrap(), expected.clone());
    let retry_at = Timestamp(1234);
    let (sink, reason) = ("search".into(), "HTTP 500".into());
    apply(
        &*store,
        vec![
            Op::MoveCursor { sink: "search".into(), partition: 1, sequence: 9, chain: 7 },
            Op::FailCursor { sink, partition: 1, attempts: 3, retry_at, reason },
        ],
    )
    .await;
    let failed = Cursor {
        sequence: 9,
        chain: 7,
        attempts: 3,
        retry_at: Some(retry_at),
        reason: Some("HTTP 500".into()),
        ..fresh(1)
    };
    let found = store.cursors("search").await.unwrap();
    same("cursors: moved and failed", found, vec![fresh(0), failed, fresh(2)]);
    same("cursors: another sink's", store.cursors("mail").await.unwrap(), expected);
    apply(&*store, vec![new_sink("search", From::Beginning)]).await;
    let kept = store.cursors("search").await.unwrap()[1].sequence;
    same("cursors: subscribing again moves them", kept, 9);
    apply(
        &*store,
        vec![Op::MoveCursor { sink: "search".into(), partition: 1, sequence: 12, chain: 12 }],
    )
    .await;
    let found = store.cursors("search").await.unwrap().remove(1);
    let expected = Cursor { sequence: 12, chain: 12, ..fresh(1) };
    same("cursors: moving clears the failures", found, expected);
}

/// Subscribes `sink` and reads all it is to get.
async fn subscribe_from(store: &dyn Store, sink: &'static str, from: From) -> Vec<Sequence> {
    apply(store, vec![new_sink(sink, from)]).await;
    let cursors = store.cursors(sink).await.unwrap();
    let after = cursors.iter().map(|cursor| (cursor.partition, cursor.sequence)).collect();
    let mut read = onewrite_core::store::Read { after, ..super::everything(store) };
    sequences(&super::follow(store, &mut read).await)
}

/// A new sink starts with the oldest record still in the log, or with the next.
pub async fn subscribe(fixture: &dyn StoreFixture) {
    let place = fixture.place(2).await;
    let store = place.open().await;
    emit(&*store, (0..4).map(|n| named(n, &key_of(n % 2, 2, 0)))).await;
    let old = sequences(&log(&*store).await);
    same(
        "subscribe: from the beginning",
        subscribe_from(&*store, "first", From::Beginning).await,
        old.clone(),
    );
    same("subscribe: from now", subscribe_from(&*store, "now", From::Now).await, Vec::<u64>::new());
    emit(&*store, [named("new", "k")]).await;
    let new = sequences(&log(&*store).await).split_off(4);
    same(
        "subscribe: what comes next",
        subscribe_from(&*store, "now", From::Now).await,
        new.clone(),
    );
    // Behind what was trimmed there is nothing to start with.
    apply(
        &*store,
        (0..2).flat_map(|p| [moved("first", p, old[1]), moved("now", p, old[1])]).collect(),
    )
    .await;
    same("trim: what all have settled", trim_all(&*store, 100).await, 2);
    let late = subscribe_from(&*store, "late", From::Beginning).await;
    same("subscribe: from the oldest that is left", late, [&old[2..], &new].concat());
    let starts = store.cursors("late").await.unwrap();
    for (partition, deleted) in store.trimmed().await.unwrap() {
        let start = starts[usize::from(partition)].sequence;
        assert!(start >= deleted, "subscribe: a start at {start}, before the {deleted} deleted");
    }
}

/// Only what every live sink has settled leaves the log; a suspended sink holds nothing back.
pub async fn trim(fixture: &dyn StoreFixture) {
    let place = fixture.place(1).await;
    let store = place.open().await;
    emit(&*store, (0..10).map(|n| named(n, "k"))).await;
    let all = sequences(&log(&*store).await);
    apply(
        &*store,
        vec![
            new_sink("slow", From::Beginning),
            new_sink("fast", From::Beginning),
            new_sink("dead", From::Beginning),
            moved("slow", 0, all[3]),
            moved("fast", 0, all[8]),
        ],
    )
    .await;
    same("trim: a live sink has settled nothing", trim_all(&*store, 100).await, 0);
    apply(&*store, vec![Op::Suspend { sink: "dead".into(), reason: Some("over budget".into()) }])
        .await;
    same("trim: at most so many", trim_all(&*store, 3).await, 3);
    same("trim: up to the slowest live sink", trim_all(&*store, 100).await, 1);
    same("trim: what is left", sequences(&log(&*store).await), all[4..].to_vec());
    same("head: the highest drawn", store.head().await.unwrap(), all[9]);
    same("trimmed: the highest deleted", store.trimmed().await.unwrap(), vec![(0, all[3])]);
    apply(&*store, vec![moved("slow", 0, all[9])]).await;
    same("trim: up to the next slowest", trim_all(&*store, 100).await, 5);
    apply(&*store, vec![Op::Suspend { sink: "dead".into(), reason: None }]).await;
    apply(&*store, vec![moved("fast", 0, all[9])]).await;
    same("trim: behind a sink that goes on again", trim_all(&*store, 100).await, 0);
    same("trim: what is left at the end", sequences(&log(&*store).await), all[9..].to_vec());
}

/// What is not old enough stays, even when everyone has it.
pub async fn trim_by_age(fixture: &dyn StoreFixture) {
    let place = fixture.place(1).await;
    let store = place.open().await;
    let start = store.now().await.unwrap();
    emit(&*store, [named("old", "k")]).await;
    let old = log(&*store).await[0].event.time.unwrap();
    let later = async {
        while store.now().await.unwrap() <= old.plus(Duration::from_millis(2)) {
            tokio::task::yield_now().await;
        }
    };
    super::soon("own clock: time passing", later).await;
    let between = store.now().await.unwrap();
    emit(&*store, [named("new", "k")]).await;
    let trim = |before| vec![Op::Trim { before, history_before: NEVER, limit: 100 }];
    same("trim: nothing is old enough", apply(&*store, trim(start)).await, 0);
    same("trim: one is old enough", apply(&*store, trim(between)).await, 1);
    same("trim: the other stays", super::ids(&log(&*store).await), vec!["new"]);
}

/// A trimmed record leaves a row in the history, until that is old enough as well.
pub async fn history(fixture: &dyn StoreFixture) {
    let place = fixture.place(1).await;
    let store = place.open().await;
    emit(&*store, (0..3).map(|n| named(n, "k"))).await;
    trim_all(&*store, 100).await;
    let history = store.find(Find::Key("k".into())).await.unwrap();
    same("history: one row for each trimmed record", history.len(), 3);
    assert!(
        history.iter().all(|trace| trace.whereabouts == Whereabouts::History),
        "history: a trimmed record is {history:?}"
    );
    apply(&*store, vec![Op::Trim { before: EVER, history_before: EVER, limit: 2 }]).await;
    same("history: at most so many go", store.find(Find::All).await.unwrap().len(), 1);
    apply(&*store, vec![Op::Trim { before: EVER, history_before: EVER, limit: 2 }]).await;
    same("history: the rest goes", store.find(Find::All).await.unwrap().len(), 0);
}

/// Every sink is listed with how far it is behind.
pub async fn sinks(fixture: &dyn StoreFixture) {
    let place = fixture.place(2).await;
    let store = place.open().await;
    let keys = [key_of(0, 2, 0), key_of(1, 2, 0)];
    let event = |n: usize| named(n, &keys[n % 2]).bytes("text/plain", vec![b'x'; 10]);
    emit(&*store, (0..6).map(event)).await;
    let records = log(&*store).await;
    let all = sequences(&records);
    apply(
        &*store,
        vec![
            new_sink("behind", From::Beginning),
            new_sink("done", From::Now),
            moved("behind", 0, all[2]),
            moved("behind", 1, all[1]),
        ],
    )
    .await;
    let found = store.sinks().await.unwrap();
    let [behind, done] = &found[..] else { panic!("sinks: {found:?}") };
    same("sinks: their names", (&*behind.name, &*done.name), ("behind", "done"));
    same("sinks: the lowest cursor", behind.sequence, all[1]);
    same("sinks: records not settled", behind.behind, 3);
    assert!(behind.bytes_behind >= 30, "sinks: {} bytes are behind", behind.bytes_behind);
    same("sinks: the oldest not settled", behind.oldest, records[3].event.time);
    same(
        "sinks: one that has everything",
        (done.behind, done.bytes_behind, done.oldest),
        (0, 0, None),
    );
    same("sinks: suspended by nobody", behind.suspended.clone(), None);
    let suspend =
        |reason: &'static str| Op::Suspend { sink: "behind".into(), reason: Some(reason.into()) };
    apply(&*store, vec![suspend("too slow")]).await;
    let (since, reason) = store.sinks().await.unwrap()[0].suspended.clone().unwrap();
    same("sinks: why one is suspended", &*reason, "too slow");
    apply(&*store, vec![suspend("still too slow")]).await;
    let again = store.sinks().await.unwrap()[0].suspended.clone().unwrap().0;
    same("sinks: since when one is suspended", again, since);
    apply(&*store, vec![Op::Suspend { sink: "behind".into(), reason: None }]).await;
    same("sinks: going on", store.sinks().await.unwrap()[0].suspended.clone(), None);
}

//! Commit order: what becomes visible in a partition has a higher number than all that is visible.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use onewrite_core::{
    Record, Timestamp,
    position::START,
    store::{From, Op, Read},
};

use super::{
    StoreFixture, StorePlace, apply, emit, everything, follow, ids, key_of, log, named, same,
    sequences, soon,
};

const WRITERS: usize = 4;
const ROUNDS: usize = 12;

/// Fails when `seen`, in the order of reading, goes back within a partition.
fn assert_ascending(seen: &[Record]) {
    let mut last: BTreeMap<u16, u64> = BTreeMap::new();
    for record in seen {
        let before = last.insert(record.partition, record.sequence).unwrap_or(START);
        assert!(
            record.sequence > before,
            "commit order: {} became visible in partition {} after {before}",
            record.sequence,
            record.partition
        );
    }
}

/// One writer: transactions of a user, every third of them rolled back. Returns what it committed.
async fn write(place: Arc<dyn StorePlace>, writer: usize) -> BTreeSet<String> {
    let mut committed = BTreeSet::new();
    let store = place.open().await;
    for round in 0..ROUNDS {
        let keys = (0..=round % 3).map(|n| format!("key-{}", (writer + round * n) % 5));
        let events: Vec<_> =
            keys.enumerate().map(|(n, key)| named(format!("{writer}-{round}-{n}"), &key)).collect();
        let new = events.iter().map(|event| event.id.clone().unwrap().to_string());
        if round % 4 == 3 {
            committed.extend(new);
            emit(&*store, events).await;
            continue;
        }
        let mut tx = place.begin().await;
        for event in &events {
            tx.emit(event.clone()).await.expect("a user's transaction emits");
            tokio::task::yield_now().await;
        }
        if (writer + round).is_multiple_of(3) {
            tx.rollback().await;
        } else {
            committed.extend(new);
            tx.commit().await.expect("a user's transaction commits");
        }
    }
    committed
}

/// 5: with several writers and rollbacks, a reader that follows with one cursor for each partition
/// sees every record, in ascending order.
pub async fn commit_order(fixture: &dyn StoreFixture) {
    let place: Arc<dyn StorePlace> = Arc::from(fixture.place(4).await);
    let store = place.open().await;
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(write(Arc::clone(&place), writer))).collect();
    let mut read = Read { limit: 3, ..everything(&*store) };
    let mut seen = Vec::new();
    let reading = async {
        while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
            seen.extend(follow(&*store, &mut read).await);
            tokio::task::yield_now().await;
        }
    };
    soon("commit order: the end of the writers", reading).await;
    let mut committed = BTreeSet::new();
    for writer in writers {
        committed.extend(writer.await.expect("a writer finishes"));
    }
    seen.extend(follow(&*store, &mut read).await);
    assert_ascending(&seen);
    let found: BTreeSet<String> = seen.iter().map(|record| record.id().to_owned()).collect();
    same("commit order: records the reader missed or invented", found, committed);
    same("commit order: records the reader saw", seen.len(), log(&*store).await.len());
}

/// 5: a transaction that stays open neither shows its records nor makes a reader step over them.
pub async fn open_transaction(fixture: &dyn StoreFixture) {
    let place = fixture.place(4).await;
    let (store, other) = (place.open().await, place.open().await);
    emit(&*store, [named("before", "k")]).await;
    let mut tx = place.begin().await;
    tx.emit(named("slow", "k")).await.unwrap();
    let late = tokio::spawn(async move { emit(&*other, [named("late", "k")]).await });
    let mut read = everything(&*store);
    let mut seen = Vec::new();
    for _ in 0..20 {
        seen.extend(follow(&*store, &mut read).await);
        tokio::task::yield_now().await;
    }
    assert!(!ids(&seen).contains(&"slow"), "commit order: a record is visible before its commit");
    tx.commit().await.unwrap();
    soon("commit order: a commit behind an open transaction", late).await.unwrap();
    seen.extend(follow(&*store, &mut read).await);
    assert_ascending(&seen);
    let mut found = ids(&seen);
    found.sort_unstable();
    same("commit order: a reader stepped over a record", found, vec!["before", "late", "slow"]);
}

/// 5: no number is ever used twice, even after every record was deleted and the store opened again.
pub async fn never_twice(fixture: &dyn StoreFixture) {
    let place = fixture.place(1).await;
    let store = place.open().await;
    emit(&*store, (1..=3).map(|n| named(n, "k"))).await;
    let mut tx = place.begin().await;
    tx.emit(named("rolled back", "k")).await.unwrap();
    tx.rollback().await;
    let used = sequences(&log(&*store).await);
    let far = Timestamp(i64::MAX);
    let deleted = apply(&*store, vec![Op::Trim { before: far, history_before: far, limit: 1000 }]);
    same("trim: everything is old enough and nobody wants it", deleted.await, 3);
    drop(store);
    let store = place.open().await;
    same("trim: a trimmed record is still in the log", log(&*store).await.len(), 0);
    emit(&*store, [named("new", "k")]).await;
    let new = sequences(&log(&*store).await);
    assert!(new[0] > used[2], "commit order: sequence {} is used twice ({used:?})", new[0]);
    same("head: the highest ever drawn", store.head().await.unwrap(), new[0]);
    same("trimmed: the highest deleted", store.trimmed().await.unwrap(), vec![(0, used[2])]);
}

/// 5: time is no order: records with equal and backwards times are read in the order of commit.
pub async fn time_is_no_order(fixture: &dyn StoreFixture) {
    let place = fixture.place(2).await;
    let store = place.open().await;
    let (left, right) = (key_of(0, 2, 0), key_of(1, 2, 0));
    let times = [50, 50, 40, 60, 10, 10, 70, 5];
    for (n, time) in times.into_iter().enumerate() {
        let key = if n % 3 == 0 { &left } else { &right };
        let mut event = named(n, key);
        event.time = Some(Timestamp(time));
        emit(&*store, [event]).await;
    }
    apply(&*store, vec![Op::Subscribe { sink: "s".into(), from: From::Beginning }]).await;
    let mut read = Read { limit: 1, ..everything(&*store) };
    let seen = follow(&*store, &mut read).await;
    assert_ascending(&seen);
    let mut found = ids(&seen);
    found.sort_unstable();
    let expected: Vec<String> = (0..times.len()).map(|n| n.to_string()).collect();
    same("commit order: time misled the reader", found, expected);
}

//! The store's promises about its write door, its clock and its watch.

use std::time::Duration;

use onewrite_core::{
    Code, Event, Text,
    error::Certainty,
    position::{START, partition_of},
    store::{Batch, Durability, From, Item, Op, Outcome},
};

use super::{
    PATIENCE, StoreFixture, apply, commit, emit, emits, event, ids, lease, log, named, poll_once,
    same, soon,
};

/// Runs every case of the store's suite.
///
/// # Panics
/// With the name of the first promise that is broken.
pub async fn all(fixture: &impl StoreFixture) {
    crate::store_cases!(all, fixture);
}

fn broken() -> Op {
    emits(Event::new("", "Thing", "broken"))
}

fn item(ops: Vec<Op>) -> Item {
    Item { fence: None, ops }
}

/// 1: the operations of an item happen together or not at all.
pub async fn atomic(fixture: &dyn StoreFixture) {
    let place = fixture.place(4).await;
    let store = place.open().await;
    let ops = vec![
        Op::Subscribe { sink: "search".into(), from: From::Beginning },
        emits(named("a", "k")),
        broken(),
        emits(named("b", "k")),
    ];
    let outcome = commit(&*store, vec![item(ops.clone())]).await.pop();
    assert!(
        matches!(&outcome, Some(Outcome::Failed(error)) if error.certainty() == Certainty::NotApplied),
        "atomic: an item with an event that cannot be delivered comes to {outcome:?}"
    );
    same("atomic: a failed item left events", ids(&log(&*store).await), Vec::<&str>::new());
    same("atomic: a failed item left a sink", store.sinks().await.unwrap().len(), 0);
    let whole: Vec<Op> = ops
        .into_iter()
        .filter(|op| !matches!(op, Op::Emit(event) if event.kind.is_empty()))
        .collect();
    apply(&*store, whole).await;
    drop(store);
    let store = place.open().await;
    same("atomic: an item is not there as a whole", ids(&log(&*store).await), vec!["a", "b"]);
    same("atomic: an item is not there as a whole", store.sinks().await.unwrap().len(), 1);
}

/// 2: an item that fails leaves the other items of its batch alone.
pub async fn independent(fixture: &dyn StoreFixture) {
    let place = fixture.place(4).await;
    let store = place.open().await;
    let held = lease::held(&*store, "a").await;
    let mut old = held[0].clone();
    old.epoch -= 1;
    let outcomes = commit(
        &*store,
        vec![
            item(vec![emits(named("1", "k"))]),
            item(vec![emits(named("2", "k")), broken()]),
            Item { fence: Some(old), ops: vec![emits(named("3", "k"))] },
            item(vec![emits(named("4", "k"))]),
            Item { fence: Some(held[0].clone()), ops: vec![emits(named("5", "k"))] },
        ],
    )
    .await;
    let found: Vec<char> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Applied(_) => 'a',
            Outcome::Fenced => 'f',
            Outcome::Failed(_) => 'x',
        })
        .collect();
    same("independent: outcomes in the order of the items", found, vec!['a', 'x', 'f', 'a', 'a']);
    same("independent: what is written", ids(&log(&*store).await), vec!["1", "4", "5"]);
}

/// 3: an item whose fence is older than the store's epoch changes nothing.
pub async fn fenced(fixture: &dyn StoreFixture) {
    let place = fixture.place(1).await;
    let store = place.open().await;
    apply(&*store, vec![Op::Subscribe { sink: "search".into(), from: From::Beginning }]).await;
    let first = lease::held(&*store, "first").await.remove(0);
    let write = |fence: &onewrite_core::lease::Fence, id: &'static str| Item {
        fence: Some(fence.clone()),
        ops: vec![
            Op::MoveCursor { sink: "search".into(), partition: 0, sequence: 7, chain: 7 },
            emits(named(id, "k")),
        ],
    };
    let mut never = first.clone();
    never.scope = "relay/never-leased".into();
    let outcome = commit(&*store, vec![write(&never, "never")]).await.pop();
    assert!(matches!(outcome, Some(Outcome::Fenced)), "fenced: no such lease, but {outcome:?}");
    commit(&*store, vec![Item { fence: None, ops: vec![Op::Release(first.clone())] }]).await;
    let outcome = commit(&*store, vec![write(&first, "released")]).await.pop();
    assert!(matches!(outcome, Some(Outcome::Fenced)), "fenced: given back, but {outcome:?}");
    let other = place.open().await;
    let second = lease::held(&*other, "second").await.remove(0);
    let outcome = commit(&*store, vec![write(&first, "late")]).await.pop();
    assert!(matches!(outcome, Some(Outcome::Fenced)), "fenced: taken over, but {outcome:?}");
    same("fenced: a late write changed the log", log(&*store).await.len(), 0);
    let cursor = store.cursors("search").await.unwrap()[0].sequence;
    same("fenced: a late write moved the cursor", cursor, START);
    let outcome = commit(&*other, vec![write(&second, "current")]).await.pop();
    assert!(matches!(outcome, Some(Outcome::Applied(_))), "fenced: the owner gets {outcome:?}");
    // Giving back late must not take the lease from its new owner.
    commit(&*store, vec![Item { fence: None, ops: vec![Op::Release(first)] }]).await;
    let outcome = commit(&*other, vec![write(&second, "still")]).await.pop();
    assert!(matches!(outcome, Some(Outcome::Applied(_))), "fenced: a late release: {outcome:?}");
}

/// 4: once a durable batch is reported, it survives. A power cut cannot be provoked here: the backend
/// is asked whether its commits reach the disk.
pub async fn durable(fixture: &dyn StoreFixture) {
    let place = fixture.place(4).await;
    let store = place.open().await;
    let held = lease::held(&*store, "a").await;
    let ops = vec![
        Op::Subscribe { sink: "search".into(), from: From::Beginning },
        emits(named("kept", "k")),
        Op::MoveCursor { sink: "search".into(), partition: 2, sequence: 1, chain: 1 },
    ];
    apply(&*store, ops).await;
    let records = log(&*store).await;
    let (source, cursors) = (store.source(), store.cursors("search").await.unwrap());
    drop(store);
    let store = place.open().await;
    same("durable: the source after a crash", store.source(), source);
    same("durable: the log after a crash", log(&*store).await, records);
    same("durable: the cursors after a crash", store.cursors("search").await.unwrap(), cursors);
    same(
        "durable: leases after a crash",
        lease::owners(&*store).await,
        vec![Some("a".into()); held.len()],
    );
    match place.reaches_disk().await {
        Some(reached) => assert!(reached, "durable: commits are reported before they are on disk"),
        None => println!("left out: this backend cannot tell whether its commits reach the disk"),
    }
}

/// 7: a lost reply is unknown, never a failure.
pub async fn unknown(fixture: &dyn StoreFixture) {
    let place = fixture.place(4).await;
    let _store = place.open().await;
    let Some(result) = place.lose_reply(item(vec![emits(event("k"))])).await else {
        println!("left out: this fixture cannot make a reply get lost");
        return;
    };
    let code = result.as_ref().map_err(onewrite_core::Error::code);
    assert_eq!(code.err(), Some(Code::CommitUnknown), "unknown: a lost reply is {result:?}");
}

/// 8: leases, retries and retention are judged by the store's clock.
pub async fn own_clock(fixture: &dyn StoreFixture) {
    let place = fixture.place(4).await;
    let (store, other) = (place.open().await, place.open().await);
    let ttl = Duration::from_secs(3600);
    let before = store.now().await.unwrap();
    lease::claim(&*store, "a", ttl, true).await;
    apply(&*store, vec![Op::Subscribe { sink: "search".into(), from: From::Beginning }]).await;
    emit(&*store, [event("k")]).await;
    place.insert("k").await;
    apply(&*store, vec![Op::Suspend { sink: "search".into(), reason: Some("slow".into()) }]).await;
    let after = other.now().await.unwrap();
    assert!(before <= after, "own clock: two processes see different clocks");
    let within = |what: &str, at| {
        // A plain row's default may be rounded to the millisecond.
        let near = Duration::from_millis(2);
        let inside = before <= onewrite_core::Timestamp::plus(at, near) && at <= after.plus(near);
        assert!(inside, "own clock: {what} at {at:?}, not between {before:?} and {after:?}");
    };
    for lease in other.leases().await.unwrap() {
        assert!(
            before.plus(ttl) <= lease.expires_at && lease.expires_at <= after.plus(ttl),
            "own clock: a lease ends at {:?}",
            lease.expires_at
        );
    }
    for record in log(&*other).await {
        within("an event", record.event.time.expect("a record has a time"));
    }
    within("a suspension", other.sinks().await.unwrap()[0].suspended.clone().unwrap().0);
}

/// 9: dropping a future leaves its outcome unknown and breaks nothing.
pub async fn cancel(fixture: &dyn StoreFixture) {
    let place = fixture.place(4).await;
    let store = place.open().await;
    for round in 0..60_u32 {
        let (left, right) = (format!("{round}-left"), format!("{round}-right"));
        let ops = vec![emits(named(left, "k")), emits(named(right, "other"))];
        let batch = Batch { durability: Durability::Durable, items: vec![item(ops)] };
        let mut future = store.commit(batch);
        if round % 3 == 0 {
            let _ = poll_once(&mut future).await;
        } else {
            let _ =
                tokio::time::timeout(Duration::from_micros(20 * u64::from(round)), future).await;
            let claim = store.claim(lease::request(&*store, "a", PATIENCE, true));
            let _ = poll_once(claim).await;
        }
        let records = log(&*store).await;
        for record in &records {
            let (round, _) = record.id().split_once('-').unwrap();
            let halves = records.iter().filter(|other| other.id().split('-').next() == Some(round));
            same("cancel: half of an item is there", halves.count(), 2);
        }
    }
    emit(&*store, [named("0-after", "k"), named("0-after-2", "k")]).await;
    let records = log(&*store).await;
    let mut unique: Vec<&str> = ids(&records);
    unique.sort_unstable();
    unique.dedup();
    same("cancel: an item was written twice", unique.len(), records.len());
}

/// A plain row of another program is placed like an emitted event.
pub async fn plain_insert(fixture: &dyn StoreFixture) {
    let place = fixture.place(256).await;
    let store = place.open().await;
    let long = "x".repeat(300);
    let keys = ["a", "order-17", "주문-42", "emoji-🧀", "quote'\"", long.as_str()];
    for key in keys {
        place.insert(key).await;
        emit(&*store, [event(key)]).await;
    }
    let records = log(&*store).await;
    same("plain insert: every row is a record", records.len(), 2 * keys.len());
    let mut known = std::collections::HashSet::new();
    for record in &records {
        let key: &Text = record.event.order_key();
        same("plain insert: partition", record.partition, partition_of(key, 256));
        assert!(known.insert(record.id().to_owned()), "plain insert: an id is given twice");
        assert!(!record.id().is_empty(), "plain insert: a record has no id");
    }
}

/// A watch resolves after a commit, and at the latest after the time given.
pub async fn watch(fixture: &dyn StoreFixture) {
    let place = fixture.place(4).await;
    let (store, other) = (place.open().await, place.open().await);
    let mut watch = store.watch();
    // Whatever opening has left to tell.
    watch.changed(Duration::from_millis(1)).await;
    soon("watch: the end of the wait", watch.changed(Duration::from_millis(1))).await;
    for writer in [&store, &other] {
        emit(&**writer, [event("k")]).await;
        soon("watch: waking after a commit", watch.changed(PATIENCE * 10)).await;
    }
}

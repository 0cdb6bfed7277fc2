//! Attempts and parked keys: an event that keeps failing, or ends its process, is set aside in order.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use onewrite_core::{
    Delivery, Record,
    broker::Receipt,
    inbox::{Attempt, Inbox, plan},
    parking::{ParkedKey, Request},
    store::{Op, Store},
};

use super::{
    Act, InboxFixture, Script, apply,
    inbox::{
        apply_all, chained, deliver, is_retry, mark_of, of_key, only, open, policy, receive, stream,
    },
    same,
};

/// Batches sent at most before a case gives up.
const ROUNDS_MAX: usize = 40;

/// A receiver whose process ends when the handler of `poison` would run: it attempts as the engine
/// does and receives no group with the poison in it, unless that group's attempts are used up.
async fn crashing(
    inbox: &Arc<dyn Inbox>,
    poison: &str,
    batch: &[Delivery],
) -> Option<Vec<Receipt>> {
    let attempts = Attempt::of(batch);
    let counted = inbox.attempt(attempts.clone(), false).await.unwrap();
    let mut receipts = vec![Receipt::Blocked; batch.len()];
    for group in plan(batch, &attempts, &counted) {
        let suspicious = counted.iter().any(|(_, counted)| !counted) && group.attempts.len() == 1;
        let mut used_up = false;
        if suspicious
            && attempts
                .iter()
                .zip(&counted)
                .any(|(attempt, (_, counted))| attempt.lane == group.attempts[0].lane && !counted)
        {
            let state = inbox.attempt(group.attempts.clone(), true).await.unwrap().remove(0).0;
            used_up = state.attempts > inbox.policy().attempts_max;
        }
        let chunk: Vec<Delivery> =
            group.indexes.iter().map(|index| batch[*index].clone()).collect();
        let deadly = chunk.iter().any(|delivery| delivery.record.id() == poison);
        if deadly && !used_up {
            return None;
        }
        let done = inbox.receive(chunk, group.attempts).await.unwrap();
        for (index, receipt) in group.indexes.iter().zip(done) {
            receipts[*index] = receipt;
        }
    }
    Some(receipts)
}

/// Sends `batch` as a relay does, from behind the mark, until all of it is settled. Each crash opens
/// the inbox anew. Returns the number of crashes.
async fn send_all(
    fixture: &dyn InboxFixture,
    place: &dyn super::InboxPlace,
    poison: &'static str,
    batch: &[Delivery],
) -> usize {
    let script: Script = Arc::new(move |record: &Record| {
        assert_ne!(record.id(), poison, "attempt first: the handler runs for what was given up");
        Act::Apply
    });
    let mut left = batch.to_vec();
    let mut crashes = 0;
    for _ in 0..ROUNDS_MAX {
        let inbox = open(fixture, place, Arc::clone(&script)).await;
        let Some(receipts) = crashing(&inbox, poison, &left).await else {
            crashes += 1;
            continue;
        };
        let mut receipts = receipts.into_iter();
        left.retain(|_| !receipts.next().is_some_and(|receipt| receipt.is_settled()));
        if left.is_empty() {
            return crashes;
        }
    }
    panic!("attempt first: after {crashes} crashes the poison is still not parked");
}

async fn parked(fixture: &dyn InboxFixture, store: &dyn Store) -> Vec<ParkedKey> {
    store.parked_keys(Some(&policy(fixture).scope())).await.unwrap()
}

/// 3: an attempt is stored before the handler runs, and an unfinished one is seen by whoever comes
/// next.
pub async fn attempt_first(fixture: &dyn InboxFixture) {
    let place = fixture.place().await;
    let attempts = Attempt::of(&stream(0, 1, 2));
    let inbox = open(fixture, &*place, apply_all()).await;
    let first = inbox.attempt(attempts.clone(), false).await.unwrap();
    assert!(first[0].1, "attempt first: the first claim is not counted");
    drop(inbox);
    let inbox = open(fixture, &*place, apply_all()).await;
    for counted in 1..=3 {
        let (state, was_counted) = inbox.attempt(attempts.clone(), false).await.unwrap().remove(0);
        assert!(!was_counted, "attempt first: an unfinished claim is not seen after a crash");
        same("attempt first: its beginning", state.attempt_first, 1);
        same("attempt first: how often it was claimed", state.attempts, counted);
        let (state, was_counted) = inbox.attempt(attempts.clone(), true).await.unwrap().remove(0);
        same("attempt first: claimed again", (was_counted, state.attempts), (true, counted + 1));
    }
    same("attempt first: no handler ran", place.effects().await, Vec::<String>::new());
    same("attempt first: the mark", mark_of(&inbox, 0).await, 0);
}

/// 3: a record that ends its process again and again is parked without running its handler (I4).
pub async fn crash_loop(fixture: &dyn InboxFixture) {
    let place = fixture.place().await;
    let crashes = send_all(fixture, &*place, "0:1", &stream(0, 1, 1)).await;
    assert!(crashes <= 5, "attempt first: {crashes} crashes with three attempts");
    let store = place.store().await;
    let keys = parked(fixture, &*store).await;
    same("attempt first: parked keys", keys.len(), 1);
    same("attempt first: the parked key", (&*keys[0].key, keys[0].waiting), ("k0-1", 1));
    assert!(!keys[0].reason.is_empty(), "attempt first: no reason is given");
    let inbox = open(fixture, &*place, apply_all()).await;
    same("attempt first: its mark", mark_of(&inbox, 0).await, 1);
    same(
        "attempt first: sent again",
        receive(&inbox, &stream(0, 1, 1)).await,
        vec![Receipt::Duplicate],
    );
    same("attempt first: effects", place.effects().await, Vec::<String>::new());
}

/// 3: the neighbours of such a record, before and behind it and in other partitions, are not blamed
/// (I4).
pub async fn neighbours(fixture: &dyn InboxFixture) {
    let place = fixture.place().await;
    let batch = [stream(0, 1, 5), stream(1, 1, 3)].concat();
    let crashes = send_all(fixture, &*place, "0:3", &batch).await;
    assert!(crashes <= 8, "attempt first: {crashes} crashes with three attempts");
    let keys = parked(fixture, &*place.store().await).await;
    let names: Vec<&str> = keys.iter().map(|key| &*key.key).collect();
    same("attempt first: who is blamed", names, vec!["k0-3"]);
    let effects = place.effects().await;
    let of = |partition: &str| -> Vec<String> {
        effects.iter().filter(|id| id.starts_with(partition)).cloned().collect()
    };
    same("attempt first: its partition", of("0:"), vec!["0:1", "0:2", "0:4", "0:5"]);
    same("attempt first: another partition", of("1:"), vec!["1:1", "1:2", "1:3"]);
}

/// Sends `batch` until all of it is settled; nothing crashes.
async fn settle_all(inbox: &Arc<dyn Inbox>, batch: &[Delivery]) {
    let mut left = batch.to_vec();
    for _ in 0..ROUNDS_MAX {
        let mut receipts = deliver(inbox, &left).await.unwrap().into_iter();
        left.retain(|_| !receipts.next().is_some_and(|receipt| receipt.is_settled()));
        if left.is_empty() {
            return;
        }
    }
    panic!("parked key: a refused record is neither taken nor parked");
}

async fn ask(fixture: &dyn InboxFixture, store: &dyn Store, request: Request) {
    let (scope, key) = (policy(fixture).scope(), "bad".into());
    let source = with_bad_key()[0].record.source.clone();
    apply(store, vec![Op::Request { scope, source, key, request, reason: None }]).await;
}

/// Five records, the second and fourth of one key, whose first is refused.
fn with_bad_key() -> Vec<Delivery> {
    let mut batch = stream(0, 1, 5);
    for index in [1, 3] {
        batch[index] = of_key(batch[index].clone(), "bad");
    }
    batch
}

/// A key whose record is refused too often is parked; its later records queue behind it, the others
/// flow, and a re-drive takes them in order.
pub async fn parked_key(fixture: &dyn InboxFixture) {
    let place = fixture.place().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&calls);
    let refusing: Script = Arc::new(move |record: &Record| {
        if record.event.order_key() == "bad" {
            counting.fetch_add(1, Ordering::SeqCst);
            return Act::Refuse("cannot be applied");
        }
        Act::Apply
    });
    let inbox = open(fixture, &*place, refusing).await;
    settle_all(&inbox, &with_bad_key()).await;
    same("parked key: how often its first record was tried", calls.load(Ordering::SeqCst), 3);
    same("parked key: the others flow", place.effects().await, vec!["0:1", "0:3", "0:5"]);
    same("parked key: the mark", mark_of(&inbox, 0).await, 5);
    let store = place.store().await;
    let key = parked(fixture, &*store).await.pop().expect("parked key: it is parked");
    same("parked key: what waits", (&*key.key, key.waiting), ("bad", 2));
    assert!(key.reason.contains("cannot be applied"), "parked key: its reason is {}", key.reason);
    same("parked key: asked for by nobody", inbox.requested().await.unwrap(), Vec::new());
    let mended = open(fixture, &*place, apply_all()).await;
    same("parked key: unasked", mended.redrive(key.clone()).await.unwrap(), Ok(2));
    same(
        "parked key: still queued",
        receive(&mended, &[of_key(chained(0, 5, 6), "bad")]).await,
        vec![Receipt::Accepted],
    );
    ask(fixture, &*store, Request::Retry).await;
    let asked = mended.requested().await.unwrap().remove(0);
    for left in [2, 1, 0, 0] {
        same("redrive: how many wait", mended.redrive(asked.clone()).await.unwrap(), Ok(left));
    }
    let expected = vec!["0:1", "0:3", "0:5", "0:2", "0:4", "0:6"];
    same("redrive: in the order of the key", place.effects().await, expected);
    same("redrive: the key is free", parked(fixture, &*store).await, Vec::new());
    let next = of_key(chained(0, 6, 7), "bad");
    same("redrive: the next record", receive(&mended, &[next]).await, vec![Receipt::Accepted]);
    same("redrive: is handled at once", place.effects().await.pop().as_deref(), Some("0:7"));
}

/// A re-drive that fails says why, leaves the record at the front and waits again.
pub async fn redrive_fails(fixture: &dyn InboxFixture) {
    let place = fixture.place().await;
    let inbox = open(fixture, &*place, only("0:2", Act::Refuse("still bad"))).await;
    settle_all(&inbox, &with_bad_key()).await;
    let store = place.store().await;
    ask(fixture, &*store, Request::Retry).await;
    let key = inbox.requested().await.unwrap().remove(0);
    let refused = inbox.redrive(key.clone()).await.unwrap();
    assert!(
        refused.as_ref().is_err_and(|reason| reason.contains("still bad")),
        "redrive: a refusal is {refused:?}"
    );
    let again = parked(fixture, &*store).await.remove(0);
    let found = (again.request, again.waiting, again.redrives);
    same("redrive: after a refusal", found, (Request::Wait, 2, 1));
    same("redrive: nothing is asked for", inbox.requested().await.unwrap(), Vec::new());
    same("redrive: effects", place.effects().await, vec!["0:1", "0:3", "0:5"]);
}

/// A discarded key is freed without running its handlers, and its records stay duplicates.
pub async fn discard(fixture: &dyn InboxFixture) {
    let place = fixture.place().await;
    let inbox = open(fixture, &*place, only("0:2", Act::Refuse("bad"))).await;
    let receipts = receive(&inbox, &with_bad_key()).await;
    assert!(is_retry(&receipts[1]), "parked key: refused once it is {:?}", receipts[1]);
    settle_all(&inbox, &with_bad_key()[1..]).await;
    let store = place.store().await;
    ask(fixture, &*store, Request::Discard).await;
    let key = inbox.requested().await.unwrap().remove(0);
    for left in [1, 0] {
        same("discard: how many wait", inbox.redrive(key.clone()).await.unwrap(), Ok(left));
    }
    same("discard: the key is free", parked(fixture, &*store).await, Vec::new());
    same("discard: effects", place.effects().await, vec!["0:1", "0:3", "0:5"]);
    let mut late = with_bad_key().remove(1);
    late.order = onewrite_core::record::Order::ById;
    same("discard: sent again", receive(&inbox, &[late]).await, vec![Receipt::Duplicate]);
}

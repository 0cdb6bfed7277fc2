//! The inbox's promises: one commit, insert first, and what becomes of gaps, duplicates and strangers.
//! What is deduplicated by id is in [`foreign`](super::foreign), attempts and parked keys are in
//! [`poison`](super::poison).

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use onewrite_core::{
    Delivery, Incarnation, Record, Result, Sequence, Text,
    broker::{Mark, Receipt},
    inbox::{Gap, Inbox, Lane, Policy},
    record::Order,
    relay::{GAP_KIND, gap_id},
    store::Op,
};
use onewrite_engine::{Receiver, ReceiverOptions};
use tokio::sync::Barrier;

use super::{
    Act, InboxFixture, InboxPlace, Remember, Script, apply, foreign::foreign, log, named, same,
    soon,
};

/// Runs every case of the inbox's suite.
///
/// # Panics
/// With the name of the first promise that is broken.
pub async fn all(fixture: &impl InboxFixture) {
    crate::inbox_cases!(all, fixture);
}

/// The source of the stream in these cases.
const SHOP: Text = Text::from_static("shop");

/// Its life.
const LIFE: Incarnation = Incarnation(7);

/// The record at `sequence` of `partition`; its id is `partition:sequence`.
pub(super) fn chained(partition: u16, previous: Sequence, sequence: Sequence) -> Delivery {
    let event = named(format!("{partition}:{sequence}"), &format!("k{partition}-{sequence}"));
    let record = Record { source: SHOP, incarnation: LIFE, partition, sequence, event };
    Delivery { record, order: Order::Chained { previous } }
}

pub(super) fn of_key(mut delivery: Delivery, key: &'static str) -> Delivery {
    delivery.record.event.key = Some(key.into());
    delivery
}

/// The stream of a partition from `first` to `last`, without holes.
pub(super) fn stream(partition: u16, first: Sequence, last: Sequence) -> Vec<Delivery> {
    (first..=last).map(|n| chained(partition, n - 1, n)).collect()
}

pub(super) fn policy(fixture: &dyn InboxFixture) -> Policy {
    Policy { attempts_max: 3, sabotage: fixture.sabotage(), ..Policy::new("search") }
}

/// A script that applies everything.
pub(super) fn apply_all() -> Script {
    Arc::new(|_| Act::Apply)
}

/// A script that does `act` with one record and applies the others.
pub(super) fn only(id: &'static str, act: Act) -> Script {
    Arc::new(move |record| if record.id() == id { act.clone() } else { Act::Apply })
}

pub(super) async fn open(
    fixture: &dyn InboxFixture,
    place: &dyn InboxPlace,
    script: Script,
) -> Arc<dyn Inbox> {
    place.open(policy(fixture), Remember::default(), script).await.expect("the inbox opens")
}

/// Receives a batch as the engine does: counts the attempt, plans, handles.
pub(super) async fn deliver(
    inbox: &Arc<dyn Inbox>,
    deliveries: &[Delivery],
) -> Result<Vec<Receipt>> {
    let receiver = Receiver::new(Arc::clone(inbox), ReceiverOptions::default());
    let receipts = receiver.receive(deliveries.to_vec()).await;
    if let Ok(receipts) = &receipts {
        same("aligned: one receipt each", receipts.len(), deliveries.len());
    }
    receipts
}

pub(super) async fn receive(inbox: &Arc<dyn Inbox>, deliveries: &[Delivery]) -> Vec<Receipt> {
    deliver(inbox, deliveries).await.expect("the inbox takes a batch")
}

pub(super) async fn mark_of(inbox: &Arc<dyn Inbox>, partition: u16) -> Sequence {
    let marks = inbox.marks(&SHOP, LIFE).await.unwrap();
    marks.iter().find(|mark| mark.partition == partition).map_or(0, |mark| mark.sequence)
}

pub(super) fn is_retry(receipt: &Receipt) -> bool {
    matches!(receipt, Receipt::Retry(_))
}

/// 1: the mark, the handler's rows and the events it emits are one commit; a handler that fails or
/// panics undoes its own rows only.
pub async fn one_commit(fixture: &dyn InboxFixture) {
    let place = fixture.place().await;
    let (fails, panics) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (failing, panicking) = (Arc::clone(&fails), Arc::clone(&panics));
    let script: Script = Arc::new(move |record: &Record| match record.id() {
        "0:2" if failing.load(Ordering::SeqCst) => Act::Refuse("not yet"),
        "0:2" if panicking.load(Ordering::SeqCst) => Act::Panic,
        "0:2" => Act::Emit(named("reaction", "order").into()),
        _ => Act::Apply,
    });
    let inbox = open(fixture, &*place, script).await;
    let store = place.store().await;
    let batch = [stream(0, 1, 2), stream(1, 1, 1)].concat();
    for panic in [false, true] {
        fails.store(!panic, Ordering::SeqCst);
        panics.store(panic, Ordering::SeqCst);
        let sent = if panic { &batch[1..2] } else { &batch[..] };
        let receipts = receive(&inbox, sent).await;
        let refused = &receipts[usize::from(!panic)];
        assert!(is_retry(refused), "one commit: a handler that fails comes to {refused:?}");
        same(
            "one commit: what a handler that fails wrote",
            place.effects().await,
            vec!["0:1", "1:1"],
        );
        same("one commit: the mark", mark_of(&inbox, 0).await, 1);
        same("one commit: what it emitted", log(&*store).await.len(), 0);
    }
    panics.store(false, Ordering::SeqCst);
    same("one commit: receipts", receive(&inbox, &batch[1..2]).await, vec![Receipt::Accepted]);
    same("one commit: effects", place.effects().await, vec!["0:1", "1:1", "0:2"]);
    let marks = inbox.marks(&SHOP, LIFE).await.unwrap();
    let mark =
        |partition, sequence, id: &'static str| Mark { partition, sequence, last_id: id.into() };
    same("one commit: marks", marks, vec![mark(0, 2, "0:2"), mark(1, 1, "1:1")]);
    let emitted = log(&*store).await;
    same("one commit: what it emitted", super::ids(&emitted), vec!["reaction"]);
    same("one commit: its cause", emitted[0].event.causation_id.as_deref(), Some("0:2"));
}

/// Two processes send the same batch at the same time, until both have it settled.
pub(super) async fn race(fixture: &dyn InboxFixture, batches: Vec<Vec<Delivery>>) -> Vec<String> {
    let place: Arc<dyn InboxPlace> = Arc::from(fixture.place().await);
    let together = Arc::new(Barrier::new(2));
    let mut senders = Vec::new();
    for _ in 0..2 {
        let inbox = open(fixture, &*place, apply_all()).await;
        let (batches, together) = (batches.clone(), Arc::clone(&together));
        senders.push(tokio::spawn(async move {
            for batch in batches {
                together.wait().await;
                let mut left = batch;
                while !left.is_empty() {
                    let mut receipts = receive(&inbox, &left).await.into_iter();
                    left.retain(|_| !receipts.next().is_some_and(|one| one.is_settled()));
                }
            }
        }));
    }
    for sender in senders {
        soon("insert first: settling a batch that two senders deliver", sender).await.unwrap();
    }
    place.effects().await
}

/// 2: two concurrent deliveries of the same record run its handler once (I2).
pub async fn insert_first(fixture: &dyn InboxFixture) {
    let batches = (0..20).map(|n| stream(0, n * 3 + 1, n * 3 + 3)).collect();
    let expected: Vec<String> = (1..=60).map(|n| format!("0:{n}")).collect();
    same("insert first: effects", race(fixture, batches).await, expected);
}

/// A missing predecessor is never stepped over; a hole in the numbers is none (I12).
pub async fn gap(fixture: &dyn InboxFixture) {
    let place = fixture.place().await;
    let inbox = open(fixture, &*place, apply_all()).await;
    same(
        "gap: a first record",
        receive(&inbox, &[chained(0, 0, 5)]).await,
        vec![Receipt::Accepted],
    );
    let lost = [chained(0, 9, 12), chained(0, 12, 13)];
    let receipts = receive(&inbox, &lost).await;
    same("gap: it is stepped over", &receipts[0], &Receipt::Gap { have: 5 });
    assert!(!receipts[1].is_settled(), "gap: what follows it is {:?}", receipts[1]);
    same("gap: effects", place.effects().await, vec!["0:5"]);
    same("gap: the mark", mark_of(&inbox, 0).await, 5);
    let receipts = receive(&inbox, &[chained(0, 5, 9)]).await;
    same("gap: the missing record", receipts, vec![Receipt::Accepted]);
    same("gap: those behind it", receive(&inbox, &lost).await, vec![Receipt::Accepted; 2]);
    same("gap: effects in order", place.effects().await, vec!["0:5", "0:9", "0:12", "0:13"]);
}

/// A record at or below the mark is a duplicate, whenever it comes.
pub async fn late_duplicate(fixture: &dyn InboxFixture) {
    let place = fixture.place().await;
    let inbox = open(fixture, &*place, apply_all()).await;
    receive(&inbox, &stream(0, 1, 4)).await;
    for late in [stream(0, 2, 2), stream(0, 4, 4), stream(0, 1, 4)] {
        let receipts = receive(&inbox, &late).await;
        same("late duplicate: receipts", receipts, vec![Receipt::Duplicate; late.len()]);
    }
    same("late duplicate: effects", place.effects().await, vec!["0:1", "0:2", "0:3", "0:4"]);
    // A sender that has not heard of what was settled sends it again with what is new.
    for _ in 0..2 {
        receive(&inbox, &stream(0, 3, 6)).await;
    }
    while mark_of(&inbox, 0).await < 6 {
        let next = mark_of(&inbox, 0).await + 1;
        receive(&inbox, &stream(0, next, 6)).await;
    }
    same("late duplicate: effects of the rest", place.effects().await.len(), 6);
}

/// Another record at the mark's own sequence: the source went back in time. Another life of it starts
/// afresh (I14).
pub async fn diverged(fixture: &dyn InboxFixture) {
    let place = fixture.place().await;
    let inbox = open(fixture, &*place, apply_all()).await;
    receive(&inbox, &stream(0, 1, 3)).await;
    let mut other = chained(0, 2, 3);
    other.record.event.id = Some("another".into());
    same("diverged: receipts", receive(&inbox, &[other.clone()]).await, vec![Receipt::Diverged]);
    same("diverged: effects", place.effects().await.len(), 3);
    other.record.incarnation = Incarnation(8);
    other.order = Order::Chained { previous: 0 };
    same("diverged: a new life", receive(&inbox, &[other]).await, vec![Receipt::Accepted]);
    same("diverged: its effects", place.effects().await.len(), 4);
    same("diverged: the old life's mark", mark_of(&inbox, 0).await, 3);
}

/// A key's order goes on through the lives of its source: what failed in one holds back the next (I14).
pub async fn lives(fixture: &dyn InboxFixture) {
    let place = fixture.place().await;
    let inbox = open(fixture, &*place, only("0:1", Act::Refuse("not yet"))).await;
    let mut next = chained(0, 0, 2);
    next.record.incarnation = Incarnation(8);
    let both = [chained(0, 0, 1), next];
    let receipts = receive(&inbox, &both).await;
    assert!(is_retry(&receipts[0]), "lives: the record that failed is {:?}", receipts[0]);
    same("lives: the next life's", &receipts[1], &Receipt::Blocked);
    same("lives: effects", place.effects().await.len(), 0);
    let mended = open(fixture, &*place, apply_all()).await;
    same("lives: both", receive(&mended, &both).await, vec![Receipt::Accepted; 2]);
    same("lives: effects in order", place.effects().await, vec!["0:1", "0:2"]);
}

/// Nothing behind a failed record of its partition is handled before it (I6).
pub async fn partial_failure(fixture: &dyn InboxFixture) {
    let place = fixture.place().await;
    let inbox = open(fixture, &*place, only("0:2", Act::Refuse("not yet"))).await;
    let receipts = receive(&inbox, &stream(0, 1, 4)).await;
    same("partial failure: before it", &receipts[0], &Receipt::Accepted);
    assert!(is_retry(&receipts[1]), "partial failure: the record itself is {:?}", receipts[1]);
    same("partial failure: behind it", &receipts[2..], &[Receipt::Blocked, Receipt::Blocked]);
    same("partial failure: effects", place.effects().await, vec!["0:1"]);
    same("partial failure: the mark", mark_of(&inbox, 0).await, 1);
    let mended = open(fixture, &*place, apply_all()).await;
    while mark_of(&mended, 0).await < 4 {
        let next = mark_of(&mended, 0).await + 1;
        receive(&mended, &stream(0, next, 4)).await;
    }
    same("partial failure: in the end", place.effects().await, vec!["0:1", "0:2", "0:3", "0:4"]);
}

/// A failed record does not hold up another partition (I5).
pub async fn another_lane(fixture: &dyn InboxFixture) {
    let place = fixture.place().await;
    let inbox = open(fixture, &*place, only("0:1", Act::Refuse("not yet"))).await;
    let batch = [stream(0, 1, 2), stream(1, 1, 2), vec![foreign("f", 1)]].concat();
    for round in 0..2 {
        let receipts = receive(&inbox, &batch).await;
        assert!(is_retry(&receipts[0]), "another lane: the failed record is {:?}", receipts[0]);
        let done = receipts[2..].iter().all(Receipt::is_settled);
        assert!(done, "another lane: in round {round}, the others are {:?}", &receipts[2..]);
    }
    same("another lane: effects", place.effects().await, vec!["1:1", "1:2", "f"]);
}

/// A gap event stops its partition until its policy or an operator accepts it.
pub async fn gap_event(fixture: &dyn InboxFixture) {
    let place = fixture.place().await;
    let strict = open(fixture, &*place, apply_all()).await;
    let store = place.store().await;
    let batch = |partition: u16| {
        let mut gap = chained(partition, 0, 9);
        gap.record.event.id = Some(gap_id(LIFE, partition, 9));
        gap.record.event.kind = GAP_KIND;
        [gap, chained(partition, 9, 10)]
    };
    let lenient = Policy { accept_gaps: true, ..policy(fixture) };
    let inbox = place.open(lenient, Remember::default(), apply_all()).await.unwrap();
    for delivery in batch(1) {
        let receipts = receive(&inbox, &[delivery]).await;
        same("gap event: with consent", receipts, vec![Receipt::Accepted]);
    }
    same("gap event: it runs no handler", place.effects().await, vec!["1:10"]);
    let receipts = receive(&strict, &batch(0)).await;
    assert!(is_retry(&receipts[0]), "gap event: without consent it is {:?}", receipts[0]);
    assert!(!receipts[1].is_settled(), "gap event: what follows it is {:?}", receipts[1]);
    same("gap event: the mark without consent", mark_of(&strict, 0).await, 0);
    let (consumer, lane) = (strict.policy().consumer.clone(), Lane::of(&batch(0)[0]));
    let expected = Gap { consumer: consumer.clone(), lane, mark: 0, upto: 9 };
    same("gap event: an operator sees it", store.gaps().await.unwrap(), vec![expected]);
    apply(&*store, vec![Op::AcceptGaps { consumer, source: SHOP }]).await;
    same("gap event: accepted", store.gaps().await.unwrap(), Vec::new());
    same("gap event: the mark with consent", mark_of(&strict, 0).await, 9);
    let [gap, next] = batch(0);
    same("gap event: again", receive(&strict, &[gap]).await, vec![Receipt::Duplicate]);
    same("gap event: what follows", receive(&strict, &[next]).await, vec![Receipt::Accepted]);
    same("gap event: effects", place.effects().await, vec!["1:10", "0:10"]);
}

/// What was received is still known after a crash.
pub async fn reopened(fixture: &dyn InboxFixture) {
    let place = fixture.place().await;
    let inbox = open(fixture, &*place, apply_all()).await;
    let batch = [stream(0, 1, 3), vec![foreign("a", 1)]].concat();
    receive(&inbox, &batch).await;
    let marks = inbox.marks(&SHOP, LIFE).await.unwrap();
    drop(inbox);
    let inbox = open(fixture, &*place, apply_all()).await;
    same("durable: marks after a crash", inbox.marks(&SHOP, LIFE).await.unwrap(), marks);
    same("durable: all is known", receive(&inbox, &batch).await, vec![Receipt::Duplicate; 4]);
    same("durable: effects", place.effects().await.len(), 4);
}

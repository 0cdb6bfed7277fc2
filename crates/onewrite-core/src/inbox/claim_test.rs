//! One test for each rule of the inbox machine and of claims.

#[path = "attempt_test.rs"]
mod attempt_test;

use std::collections::{HashMap, HashSet};

use super::{Claim, Effect, Fact};
use crate::{
    Delivery, Event, Incarnation, Record, Sequence, Text,
    broker::Receipt::{self, Accepted, Blocked, Diverged, Duplicate, Gap, Retry},
    inbox::{Attempt, Lane, LaneState, Policy, closed, plan},
    record::Order,
    relay::GAP_KIND,
};

/// A receiver's database with one lane, as far as one transaction needs it.
#[derive(Default)]
struct Rows {
    state: LaneState,
    ids: HashSet<Text>,
    parked: Vec<(Text, Sequence)>,
    refuses: HashSet<Sequence>,
    handled: Vec<Sequence>,
    asked: Vec<Effect>,
    why: HashMap<Sequence, Text>,
}

impl Rows {
    fn at(sequence: Sequence) -> Self {
        let state =
            LaneState { sequence, last_id: format!("id-{sequence}").into(), ..Default::default() };
        Self { state, ..Self::default() }
    }

    fn refusing(mut self, sequence: Sequence) -> Self {
        self.refuses.insert(sequence);
        self
    }

    /// Claims and receives, as a calm driver does.
    fn receive(&mut self, deliveries: &[Delivery]) -> Vec<Receipt> {
        let attempts = Attempt::of(deliveries);
        let counted = self.count(&attempts, false);
        let mut receipts = vec![Blocked; deliveries.len()];
        let mut shut = HashSet::new();
        for group in plan(deliveries, &attempts, &counted) {
            if group.indexes.iter().all(|at| shut.contains(&Lane::of(&deliveries[*at]).partition()))
            {
                continue;
            }
            if counted.iter().any(|(_, counted)| !counted) {
                self.count(&group.attempts, true);
            }
            let part: Vec<_> = group.indexes.iter().map(|at| deliveries[*at].clone()).collect();
            let done = self.commit(&Policy::new("mail"), &part, &group.attempts);
            shut.extend(closed(&part, &done));
            group.indexes.into_iter().zip(done).for_each(|(at, done)| receipts[at] = done);
        }
        receipts
    }

    fn count(&mut self, attempts: &[Attempt], again: bool) -> Vec<(LaneState, bool)> {
        attempts
            .iter()
            .map(|attempt| {
                let counted = self.state.claim(attempt.first, again);
                (self.state.clone(), counted)
            })
            .collect()
    }

    /// One transaction.
    fn commit(
        &mut self,
        policy: &Policy,
        deliveries: &[Delivery],
        attempts: &[Attempt],
    ) -> Vec<Receipt> {
        let states = vec![(lane(), self.state.clone())];
        let mut claim = Claim::new(policy, deliveries, attempts, states, !self.parked.is_empty());
        let mut fact = Fact::Begun;
        loop {
            let effect = claim.step(fact);
            self.asked.push(effect.clone());
            fact = match effect {
                Effect::Remember(at) => Fact::Fresh(self.ids.insert(id(&deliveries[at]))),
                Effect::Forget(at) => {
                    self.ids.remove(&id(&deliveries[at]));
                    Fact::Forgotten
                }
                Effect::LookParked(at) => {
                    let key = deliveries[at].record.event.order_key();
                    Fact::Parked(self.parked.iter().any(|(parked, _)| parked == key))
                }
                Effect::Handle(at) => {
                    let sequence = deliveries[at].record.sequence;
                    let refused = self.refuses.contains(&sequence);
                    if !refused {
                        self.handled.push(sequence);
                    }
                    Fact::Handled(refused.then(|| "no".into()))
                }
                Effect::Park(at, why) => {
                    let record = &deliveries[at].record;
                    self.parked.push((record.event.order_key().clone(), record.sequence));
                    self.why.insert(record.sequence, why);
                    Fact::Stored
                }
                Effect::Done => break,
            };
        }
        if let Some((_, state)) = claim.changed().next() {
            self.state = state.clone();
        }
        claim.receipts()
    }
}

fn lane() -> Lane {
    Lane { source: "shop".into(), incarnation: Incarnation(1), partition: 0 }
}

fn id(delivery: &Delivery) -> Text {
    delivery.record.id().to_owned().into()
}

fn chained(previous: Sequence, sequence: Sequence, key: &str) -> Delivery {
    let mut event = Event::new("Paid", "Order", key.to_owned());
    event.id = Some(format!("id-{sequence}").into());
    let (source, incarnation) = ("shop".into(), Incarnation(1));
    let record = Record { source, incarnation, partition: 0, sequence, event };
    Delivery { record, order: Order::Chained { previous } }
}

fn by_id(sequence: Sequence, key: &str) -> Delivery {
    Delivery { order: Order::ById, ..chained(0, sequence, key) }
}

fn attempt(first: Sequence) -> Attempt {
    Attempt { lane: lane(), first, contended: false }
}

fn retry() -> Receipt {
    Retry("no".into())
}

#[test]
fn a_stream_is_handled_in_order_and_moves_the_mark() {
    let mut rows = Rows::at(4);
    let receipts = rows.receive(&[chained(4, 5, "a"), chained(5, 9, "b")]);
    assert_eq!(receipts, [Accepted, Accepted]);
    assert_eq!((rows.handled, rows.state.sequence, &*rows.state.last_id), (vec![5, 9], 9, "id-9"));
    assert!(rows.ids.is_empty(), "a calm stream keeps no ids");
}

#[test]
fn what_lies_at_or_below_the_mark_is_a_duplicate() {
    let mut rows = Rows::at(9);
    let receipts = rows.receive(&[chained(4, 5, "a"), chained(5, 9, "b")]);
    assert_eq!((receipts, rows.handled), (vec![Duplicate, Duplicate], vec![]));
}

#[test]
fn a_missing_predecessor_is_a_gap_and_never_stepped_over() {
    let mut rows = Rows::at(4);
    let receipts = rows.receive(&[chained(5, 6, "a"), chained(6, 7, "b")]);
    assert_eq!(receipts, [Gap { have: 4 }, Blocked]);
    assert_eq!((rows.handled.len(), rows.state.sequence), (0, 4));
}

#[test]
fn a_hole_in_the_sequence_is_no_gap() {
    assert_eq!(Rows::at(4).receive(&[chained(4, 400, "a")]), [Accepted]);
}

#[test]
fn another_record_at_the_mark_has_diverged() {
    let mut rows = Rows::at(5);
    rows.state.last_id = "another".into();
    assert_eq!(rows.receive(&[chained(4, 5, "a"), chained(5, 6, "a")]), [Diverged, Blocked]);
}

#[test]
fn what_follows_a_failed_record_is_blocked() {
    let mut rows = Rows::at(4).refusing(6);
    let receipts = rows.receive(&[chained(4, 5, "a"), chained(5, 6, "b"), chained(6, 7, "c")]);
    assert_eq!(receipts, [Accepted, retry(), Blocked]);
    assert_eq!((rows.handled, rows.state.sequence), (vec![5], 5));
}

#[test]
fn a_failing_record_is_counted_and_then_parked() {
    let mut rows = Rows::at(4).refusing(5);
    for attempts in 1..5 {
        assert_eq!(rows.receive(&[chained(4, 5, "a")]), [retry()]);
        assert_eq!((rows.state.attempt_first, rows.state.attempts), (5, attempts));
    }
    assert_eq!(rows.receive(&[chained(4, 5, "a")]), [Accepted]);
    assert_eq!((rows.parked, rows.state.sequence), (vec![("a".into(), 5)], 5));
}

#[test]
fn a_record_that_ends_its_process_is_parked_without_another_try() {
    let mut rows = Rows::at(4);
    let deliveries = [chained(4, 5, "a"), chained(5, 6, "b")];
    for _ in 0..6 {
        let attempts = Attempt::of(&deliveries);
        rows.count(&attempts, true);
    }
    let receipts = rows.commit(&Policy::new("mail"), &deliveries, &[attempt(5)]);
    assert_eq!(receipts, [Accepted, Accepted]);
    assert_eq!((rows.parked, rows.handled), (vec![("a".into(), 5)], vec![6]));
    assert_eq!(&*rows.why[&5], "the receiver ended 5 times while handling it");
}

#[test]
fn a_parked_key_queues_up_and_the_others_flow() {
    let mut rows = Rows::at(4);
    rows.parked.push(("a".into(), 3));
    let receipts = rows.receive(&[chained(4, 5, "a"), chained(5, 6, "b")]);
    assert_eq!((receipts, rows.handled), (vec![Accepted, Accepted], vec![6]));
    assert_eq!(rows.parked, [("a".into(), 3), ("a".into(), 5)]);
}

#[test]
fn a_key_parked_in_this_batch_queues_up_at_once() {
    let mut rows = Rows::at(4).refusing(5);
    rows.state.claim(5, false);
    (0..4).for_each(|_| assert!(rows.state.claim(5, true)));
    let deliveries = [chained(4, 5, "a"), chained(5, 6, "a")];
    assert_eq!(rows.commit(&Policy::new("mail"), &deliveries, &[attempt(5)]), [Accepted, Accepted]);
    assert_eq!((rows.parked.len(), rows.handled.len()), (2, 0));
}

#[test]
fn a_redriven_record_is_judged_by_its_id() {
    let mut rows = Rows::at(9);
    assert_eq!(rows.receive(&[by_id(5, "a")]), [Accepted]);
    assert_eq!(rows.receive(&[by_id(5, "a")]), [Duplicate]);
    assert_eq!((rows.handled, rows.state.sequence), (vec![5], 9), "the mark stays");
}

#[test]
fn a_refused_redrive_is_not_remembered() {
    let mut rows = Rows::at(9).refusing(5);
    assert_eq!(rows.receive(&[by_id(5, "a"), by_id(6, "a")]), [retry(), Blocked], "and in order");
    rows.refuses.clear();
    assert_eq!(rows.receive(&[by_id(5, "a"), by_id(6, "a")]), [Accepted, Accepted]);
    assert_eq!(rows.handled, [5, 6]);
}

#[test]
fn a_redriven_record_queues_up_behind_its_parked_key() {
    let mut rows = Rows::at(9);
    rows.parked.push(("a".into(), 3));
    assert_eq!(rows.receive(&[by_id(5, "a")]), [Accepted]);
    assert_eq!((rows.parked.len(), rows.handled.len()), (2, 0));
}

#[test]
fn a_record_claimed_again_is_remembered_so_that_a_redrive_finds_it() {
    let mut rows = Rows::at(4).refusing(5);
    rows.receive(&[chained(4, 5, "a")]);
    rows.refuses.clear();
    assert_eq!(rows.receive(&[chained(4, 5, "a")]), [Accepted]);
    assert_eq!(rows.receive(&[by_id(5, "a")]), [Duplicate]);
}

#[test]
fn a_contended_record_that_fails_is_not_lost() {
    let mut rows = Rows::at(4).refusing(5);
    assert_eq!(rows.receive(&[chained(4, 5, "a")]), [retry()]);
    assert_eq!(
        rows.receive(&[chained(4, 5, "a")]),
        [retry()],
        "its id was remembered and forgotten"
    );
    rows.refuses.clear();
    assert_eq!(rows.receive(&[chained(4, 5, "a")]), [Accepted]);
    assert_eq!(rows.handled, [5]);
}

#[test]
fn a_contended_record_that_is_parked_stays_known() {
    let mut rows = Rows::at(4).refusing(5);
    (0..5).for_each(|_| drop(rows.receive(&[chained(4, 5, "a")])));
    assert_eq!(rows.parked.len(), 1);
    assert_eq!(rows.receive(&[by_id(5, "a")]), [Duplicate], "it waits in its key's queue");
}

#[test]
fn a_stream_that_comes_after_a_redrive_skips_what_was_redriven() {
    let mut rows = Rows::at(4);
    rows.receive(&[by_id(5, "a")]);
    rows.state.claim(7, false);
    let receipts = rows.receive(&[chained(4, 5, "a"), chained(5, 6, "a")]);
    assert_eq!((receipts, rows.handled), (vec![Duplicate, Blocked], vec![5]));
    assert_eq!(rows.state.sequence, 5);
}

#[test]
fn a_claim_that_displaces_an_unfinished_one_remembers_ids() {
    let mut rows = Rows::at(4);
    assert!(rows.state.claim(6, false), "somebody gave 5 up and goes on with 6");
    assert_eq!(rows.receive(&[chained(4, 5, "a")]), [Accepted], "a late request of another");
    let six = rows.commit(&Policy::new("mail"), &[chained(4, 6, "b")], &[attempt(6)]);
    assert_eq!(six, [Accepted]);
    assert_eq!(rows.receive(&[by_id(5, "a")]), [Duplicate]);
    assert_eq!(rows.handled, [5, 6]);
}

#[test]
fn what_follows_a_duplicate_waits_for_a_request_of_its_own() {
    let mut rows = Rows::at(4);
    assert_eq!(rows.receive(&[chained(3, 4, "a"), chained(4, 5, "a")]), [Duplicate, Blocked]);
    assert_eq!(rows.receive(&[chained(4, 5, "a")]), [Accepted]);
}

#[test]
fn a_late_request_does_not_overtake_what_its_successor_parked() {
    let mut rows = Rows::at(4);
    // The successor parked 5 of key a at the sender and went on with 6 of key b.
    assert_eq!(rows.receive(&[chained(4, 6, "b")]), [Accepted]);
    let late = [chained(4, 5, "a"), chained(5, 6, "b"), chained(6, 8, "a")];
    assert_eq!(rows.receive(&late), [Duplicate, Duplicate, Blocked]);
    assert_eq!(rows.receive(&[by_id(5, "a"), by_id(8, "a")]), [Accepted, Accepted]);
    assert_eq!(rows.handled, [6, 5, 8]);
}

#[test]
fn a_stream_that_goes_back_skips_what_came_outside_it() {
    let mut rows = Rows::at(4);
    rows.receive(&[by_id(7, "a")]);
    let stream = [chained(4, 5, "a"), chained(5, 7, "a"), chained(7, 8, "a")];
    assert_eq!(rows.receive(&stream), [Accepted, Duplicate, Accepted]);
    assert_eq!(rows.handled, [7, 5, 8]);
}

#[test]
fn a_gap_event_stops_its_lane_until_an_operator_agrees() {
    let mut gap = chained(4, 8, "gap-0");
    gap.record.event.kind = GAP_KIND;
    let deliveries = [gap, chained(8, 9, "a")];
    let mut rows = Rows::at(4);
    let mut policy = Policy::new("mail");
    let receipts = rows.commit(&policy, &deliveries, &[attempt(8)]);
    assert!(matches!(&receipts[..], [Retry(why), Blocked] if why.starts_with("OW0017")));
    policy.accept_gaps = true;
    assert_eq!(rows.commit(&policy, &deliveries, &[attempt(8)]), [Accepted, Accepted]);
    assert_eq!(rows.handled, [9], "the gap itself is not handled");
}

#[test]
fn a_refusal_in_one_life_holds_back_the_next_life_of_its_partition() {
    let mut rows = Rows::at(4).refusing(5);
    let mut next_life = chained(0, 6, "k");
    next_life.record.incarnation = Incarnation(next_life.record.incarnation.0 + 1);
    let receipts = rows.receive(&[chained(4, 5, "k"), next_life]);
    assert_eq!(receipts, [retry(), Blocked], "a key's order goes on through its source's lives");
}

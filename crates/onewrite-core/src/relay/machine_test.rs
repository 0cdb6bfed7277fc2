//! One test for each rule of the relay machine.

#[path = "lane_test.rs"]
mod lane_test;

use std::time::Duration;

use super::{Alarm, GAP_KIND, Offer, Policy, Relay};
use crate::{
    Event, Incarnation, Partition, Record, Sequence, Timestamp,
    broker::Receipt::{self, Accepted, Blocked, Diverged, Duplicate, Gap, Refused, Retry},
    lease::{Epoch, Fence},
    position::{START, Source},
    record::Order,
    retry::Backoff,
    sabotage::Sabotage,
    store::{Cursor, Item, Op, Page},
};

const NOW: Timestamp = Timestamp(1_000_000);
const LATER: Timestamp = Timestamp(2_000_000);

fn source() -> Source {
    Source { name: "shop".into(), partitions: 2, incarnations: vec![(1, Incarnation(1))] }
}

fn relay(attempts_max: u32) -> Relay {
    let backoff = Backoff { initial: Duration::from_millis(10), cap: Duration::from_millis(80) };
    let policy =
        Policy { sink: "mail".into(), backoff, attempts_max, sabotage: Sabotage::default() };
    Relay::new(policy, source())
}

fn fence(partition: Partition, epoch: Epoch) -> Fence {
    Fence { scope: "relay/mail".into(), partition, epoch }
}

fn cursor(partition: Partition, sequence: Sequence, chain: Sequence) -> Cursor {
    let (attempts, retry_at, reason) = (0, None, None);
    Cursor { partition, sequence, chain, attempts, retry_at, reason, parked: Vec::new() }
}

/// A relay that holds partition 0 with its cursor at `sequence`.
fn leased(sequence: Sequence) -> Relay {
    let mut relay = relay(3);
    relay.leased(&[fence(0, 1)], &[cursor(0, sequence, sequence)]);
    relay
}

fn record(partition: Partition, sequence: Sequence, key: &str) -> Record {
    let mut event = Event::new("Paid", "Order", key.to_owned());
    event.id = Some(format!("id-{sequence}").into());
    let incarnation = source().incarnation_at(sequence);
    Record { source: "shop".into(), incarnation, partition, sequence, event }
}

/// A page of partition 0, looked through up to `upto`.
fn page(records: &[(Sequence, &str)], upto: Sequence) -> Page {
    let records = records.iter().map(|(sequence, key)| record(0, *sequence, key)).collect();
    Page { records, upto: vec![(0, upto)], trimmed: Vec::new(), more: false }
}

fn offer(relay: &mut Relay, records: &[(Sequence, &str)], upto: Sequence) -> Offer {
    let asked = relay.wanted(LATER);
    relay.offer(&asked, page(records, upto))
}

/// `(sequence, previous)` of each delivery.
fn chain(offer: &Offer) -> Vec<(Sequence, Sequence)> {
    offer
        .deliveries
        .iter()
        .map(|delivery| match delivery.order {
            Order::Chained { previous } => (delivery.record.sequence, previous),
            Order::ById => (delivery.record.sequence, Sequence::MAX),
        })
        .collect()
}

/// The writes of the items as words, without their fences.
fn words(items: &[Item]) -> Vec<String> {
    let word = |op: &Op| match op {
        Op::MoveCursor { sequence, chain, .. } => format!("move {sequence}/{chain}"),
        Op::FailCursor { attempts, .. } => format!("fail {attempts}"),
        Op::Park { sequence, .. } => format!("park {sequence}"),
        Op::Release(_) => "release".to_owned(),
        other => format!("{other:?}"),
    };
    items.iter().map(|item| item.ops.iter().map(word).collect::<Vec<_>>().join(", ")).collect()
}

fn settle(relay: &mut Relay, offer: &Offer, receipts: &[Receipt]) -> Vec<String> {
    words(&relay.published(NOW, 1.0, offer, Some(receipts)).items)
}

fn no() -> Receipt {
    Retry("the handler failed".into())
}

#[test]
fn each_delivery_names_the_one_before_it_in_its_stream() {
    let mut relay = leased(10);
    let offer = offer(&mut relay, &[(12, "a"), (15, "b"), (16, "a")], 16);
    assert_eq!(chain(&offer), [(12, 10), (15, 12), (16, 15)]);
    assert_eq!(settle(&mut relay, &offer, &[Accepted, Duplicate, Accepted]), ["move 16/16"]);
}

#[test]
fn the_chain_is_the_same_after_a_takeover() {
    let mut first = leased(10);
    let whole = offer(&mut first, &[(12, "a"), (15, "b"), (20, "c")], 20);
    let items = first.published(NOW, 1.0, &whole, Some(&[Accepted, no(), Blocked])).items;
    let Some(Op::MoveCursor { sequence, chain: last, .. }) = items[0].ops.first() else {
        panic!("{items:?}")
    };
    let mut second = relay(3);
    second.leased(&[fence(0, 2)], &[cursor(0, *sequence, *last)]);
    let rest = offer(&mut second, &[(15, "b"), (20, "c")], 20);
    assert_eq!(chain(&rest), chain(&whole)[1..]);
    assert_eq!(rest.deliveries, whole.deliveries[1..]);
}

#[test]
fn the_chain_names_what_was_delivered_not_what_was_looked_through() {
    let mut relay = leased(10);
    let empty = offer(&mut relay, &[], 30);
    assert!(settle(&mut relay, &empty, &[]).is_empty(), "nothing to note at once");
    assert_eq!(chain(&offer(&mut relay, &[(31, "a")], 31)), [(31, 10)]);
}

#[test]
fn the_next_page_is_read_ahead_behind_what_was_offered() {
    let mut relay = leased(10);
    let first = offer(&mut relay, &[(11, "a")], 14);
    assert_eq!(relay.wanted(NOW), [(0, 14)]);
    let asked = relay.wanted(NOW);
    settle(&mut relay, &first, &[Accepted]);
    assert_eq!(chain(&relay.offer(&asked, page(&[(15, "b")], 15))), [(15, 11)]);
}

#[test]
fn nothing_goes_out_while_an_offer_of_the_lane_is_in_flight() {
    let mut relay = leased(10);
    let _in_flight = offer(&mut relay, &[(11, "a")], 11);
    assert!(offer(&mut relay, &[(12, "b")], 12).is_empty());
}

#[test]
fn a_failed_record_sets_its_lane_back_and_nothing_behind_it_is_settled() {
    let mut relay = leased(10);
    let sent = offer(&mut relay, &[(11, "a"), (12, "b"), (13, "c")], 13);
    // A sink that breaks its promise and takes what lies behind the failure changes nothing.
    let writes = settle(&mut relay, &sent, &[Accepted, no(), Accepted]);
    assert_eq!(writes, ["move 11/11", "fail 1"]);
    assert_eq!(relay.lane(0), Some((11, 11, 1)));
    assert_eq!(relay.wanted(NOW), [], "it pauses");
    assert_eq!(relay.resume_at(), Some(NOW.plus(Duration::from_millis(10))));
    assert_eq!(relay.wanted(LATER), [(0, 11)]);
}

#[test]
fn a_tail_behind_a_failed_record_is_not_settled() {
    let mut relay = leased(10);
    let sent = offer(&mut relay, &[(11, "a")], 40);
    settle(&mut relay, &sent, &[no()]);
    assert_eq!(relay.wanted(LATER), [(0, 10)]);
}

#[test]
fn a_failure_in_one_partition_leaves_the_others_alone() {
    let mut relay = relay(3);
    relay.leased(&[fence(0, 1), fence(1, 1)], &[cursor(0, 0, 0), cursor(1, 0, 0)]);
    let records = vec![record(0, 1, "a"), record(1, 2, "b"), record(0, 3, "c")];
    let page = Page { records, upto: vec![(0, 3), (1, 3)], trimmed: Vec::new(), more: false };
    let sent = relay.offer(&relay.wanted(NOW), page);
    let writes = settle(&mut relay, &sent, &[no(), Accepted, Blocked]);
    assert_eq!(writes, ["move 3/2", "fail 1"]);
    assert_eq!(relay.wanted(NOW), [(1, 3)]);
}

#[test]
fn a_lane_set_back_discards_the_page_read_ahead() {
    let mut relay = leased(10);
    let sent = offer(&mut relay, &[(11, "a")], 11);
    let ahead = relay.wanted(NOW);
    settle(&mut relay, &sent, &[no()]);
    assert!(relay.offer(&ahead, page(&[(12, "b")], 12)).is_empty());
    assert_eq!(chain(&offer(&mut relay, &[(11, "a"), (12, "b")], 12)), [(11, 10), (12, 11)]);
}

#[test]
fn a_receiver_that_takes_one_at_a_time_is_not_paused_for() {
    let mut relay = leased(10);
    let sent = offer(&mut relay, &[(11, "a"), (12, "b")], 12);
    assert_eq!(settle(&mut relay, &sent, &[Accepted, Blocked]), ["move 11/11"]);
    assert_eq!(relay.wanted(NOW), [(0, 11)]);
}

#[test]
fn parking_holds_the_lane_until_it_is_committed() {
    let mut relay = leased(10);
    for attempt in 1..=2 {
        let sent = offer(&mut relay, &[(11, "a"), (12, "b")], 12);
        assert_eq!(settle(&mut relay, &sent, &[no(), Blocked]), [format!("fail {attempt}")]);
    }
    let sent = offer(&mut relay, &[(11, "a"), (12, "b")], 12);
    let done = relay.published(NOW, 1.0, &sent, Some(&[no(), Blocked]));
    assert_eq!(words(&done.items), ["park 11, move 11/10"]);
    assert_eq!(done.alarms, [Alarm::Parked("a".into())]);
    assert_eq!(relay.wanted(LATER), [], "held");
    assert!(relay.give_back(1).is_empty(), "its owner waits for the commit");
    assert!(relay.checkpoint().is_empty());
    relay.committed(0);
    assert_eq!(chain(&offer(&mut relay, &[(12, "b")], 12)), [(12, 10)], "11 was never delivered");
}

#[test]
fn a_parked_key_queues_up_one_at_a_time_behind_what_goes_out_before_it() {
    let mut relay = relay(3);
    let parked = Cursor { parked: vec!["a".into()], ..cursor(0, 10, 10) };
    relay.leased(&[fence(0, 1)], &[parked]);
    let records = [(11, "b"), (12, "a"), (13, "b")];
    let first = offer(&mut relay, &records, 13);
    assert_eq!((chain(&first), first.items.len()), (vec![(11, 10)], 0));
    assert_eq!(settle(&mut relay, &first, &[Accepted]), ["move 11/11"]);
    let second = offer(&mut relay, &records[1..], 13);
    assert_eq!(words(&second.items), ["park 12, move 12/11"]);
    assert!(second.deliveries.is_empty());
    assert_eq!(relay.wanted(LATER), [], "held");
    relay.committed(0);
    assert_eq!(chain(&offer(&mut relay, &records[2..], 13)), [(13, 11)]);
}

#[test]
fn a_freed_key_flows_again() {
    let mut relay = relay(3);
    relay.leased(&[fence(0, 1)], &[Cursor { parked: vec!["a".into()], ..cursor(0, 10, 10) }]);
    relay.freed(0, &"a".into());
    assert_eq!(chain(&offer(&mut relay, &[(11, "a")], 11)), [(11, 10)]);
}

#[test]
fn nothing_unknown_counts_against_a_key() {
    let mut relay = leased(10);
    for _ in 0..9 {
        let sent = offer(&mut relay, &[(11, "a")], 11);
        let items = relay.published(NOW, 1.0, &sent, None).items;
        assert_eq!(words(&items), ["fail 0"]);
    }
    assert_eq!(relay.resume_at(), Some(NOW.plus(Duration::from_millis(80))), "it pauses longer");
    let sent = offer(&mut relay, &[(11, "a")], 11);
    assert_eq!(settle(&mut relay, &sent, &[Refused("no".into())]), ["fail 1"]);
}

#[test]
fn attempts_survive_a_takeover() {
    let mut relay = relay(3);
    let failed = Cursor { attempts: 2, retry_at: Some(LATER), ..cursor(0, 10, 10) };
    relay.leased(&[fence(0, 2)], &[failed]);
    assert_eq!(relay.wanted(NOW), [], "the pause is the store's");
    let sent = offer(&mut relay, &[(11, "a")], 11);
    assert_eq!(settle(&mut relay, &sent, &[no()]), ["park 11, move 11/10"]);
}

#[test]
fn a_pause_that_is_over_wakes_nobody() {
    let mut relay = leased(10);
    let sent = offer(&mut relay, &[(11, "a")], 11);
    settle(&mut relay, &sent, &[no()]);
    let _in_flight = offer(&mut relay, &[(11, "a")], 11);
    assert_eq!(relay.resume_at(), None);
}

#[test]
fn every_write_carries_the_lanes_epoch() {
    let mut relay = leased(10);
    let sent = offer(&mut relay, &[(11, "a"), (12, "b")], 12);
    let done = relay.published(NOW, 1.0, &sent, Some(&[Accepted, no()]));
    assert!(done.items.iter().all(|item| item.fence == Some(fence(0, 1))), "{done:?}");
}

//! Rules of a lane's buffer.

use onewrite_core::{
    Event, Incarnation, Record,
    broker::Receipt::{Accepted, Blocked, Diverged, Duplicate},
};

use super::*;

const MAX: usize = usize::MAX;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn policy() -> Policy {
    Policy { backoff: Backoff { initial: ms(100), cap: ms(1000) }, gap_patience: ms(5000) }
}

fn chained(previous: Sequence, sequence: Sequence) -> Delivery {
    of(0, Order::Chained { previous }, sequence, "k")
}

fn by_id(sequence: Sequence, key: &str) -> Delivery {
    of(0, Order::ById, sequence, key)
}

fn of(partition: u16, order: Order, sequence: Sequence, key: &str) -> Delivery {
    let mut event = Event::new("Happened", "Thing", key.to_owned());
    event.id = Some(format!("e{sequence}").into());
    let source = "shop".into();
    let record = Record { source, incarnation: Incarnation(7), partition, sequence, event };
    Delivery { record, order }
}

/// A lane, the time, and the numbers of messages inserted so far.
struct Bench {
    lane: Lane<String>,
    now: Instant,
    sent: u64,
}

impl Bench {
    fn new() -> Self {
        Self { lane: Lane::new(policy()), now: Instant::now(), sent: 0 }
    }

    /// Inserts a message as the next of the stream.
    fn insert(&mut self, delivery: Delivery) {
        self.sent += 1;
        self.insert_at(self.sent, delivery);
    }

    fn insert_at(&mut self, place: u64, delivery: Delivery) {
        let token = format!("r{place}");
        self.lane.insert(delivery, Ticket { place, token, heard_at: self.now });
    }

    fn offer(&mut self) -> Vec<Sequence> {
        let offered = self.lane.offer(MAX, MAX, self.now);
        offered.iter().map(|delivery| delivery.record.sequence).collect()
    }

    fn settle(&mut self, receipts: &[Receipt]) -> Vec<String> {
        self.lane.settle(Some(receipts), self.now, 1.0)
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }
}

fn retry() -> Receipt {
    Receipt::Retry("busy".into())
}

#[test]
fn one_offer_at_a_time_and_answers_for_what_is_settled() {
    let mut bench = Bench::new();
    for n in 1..4 {
        bench.insert(chained(n - 1, n));
    }
    assert_eq!(bench.offer(), [1, 2, 3]);
    bench.insert(chained(3, 4));
    assert!(bench.offer().is_empty(), "while one is in work");
    assert_eq!(bench.settle(&[Accepted, Duplicate, Accepted]), ["r1", "r2", "r3"]);
    assert_eq!((bench.offer(), bench.lane.held()), (vec![4], 1));
}

#[test]
fn what_comes_late_finds_its_place() {
    let mut bench = Bench::new();
    for (stream, n) in [(1, 1), (4, 4), (2, 2), (5, 5), (3, 3)] {
        bench.insert_at(stream, chained(n - 1, n));
    }
    assert_eq!(bench.offer(), [1, 2, 3, 4, 5]);
}

#[test]
fn a_repeat_is_one_delivery_with_two_answers() {
    let mut bench = Bench::new();
    bench.insert(chained(0, 1));
    bench.insert(chained(0, 1));
    // The same message once more: only the newest way to answer counts.
    bench.insert_at(1, chained(0, 1));
    assert_eq!(bench.offer(), [1]);
    assert_eq!(bench.settle(&[Accepted]), ["r1", "r2"]);
    assert_eq!(bench.lane.held(), 0);
}

#[test]
fn the_same_record_with_an_earlier_predecessor_goes_first() {
    let mut bench = Bench::new();
    bench.insert(chained(11, 12));
    bench.insert(chained(10, 12));
    let offered = bench.lane.offer(MAX, MAX, bench.now);
    assert_eq!(offered, [chained(10, 12), chained(11, 12)]);
}

#[test]
fn a_record_outside_the_stream_keeps_its_place_among_the_others() {
    let mut bench = Bench::new();
    bench.insert_at(1, chained(2, 3));
    bench.insert_at(3, chained(3, 9));
    bench.insert_at(2, by_id(5, "k"));
    bench.insert_at(4, by_id(6, "k"));
    assert_eq!(bench.offer(), [3, 5, 9, 6]);
    bench.settle(&[Accepted, retry(), Blocked, Blocked]);
    // What was sent before it, and delivered again, stays before it.
    bench.insert_at(5, chained(9, 10));
    assert!(bench.offer().is_empty(), "all are of one key");
    bench.pass(ms(101));
    assert_eq!(bench.offer(), [5, 9, 6, 10]);
}

#[test]
fn a_record_outside_the_stream_that_fails_holds_back_its_key_alone() {
    let mut bench = Bench::new();
    bench.insert(by_id(1, "a"));
    bench.insert(by_id(2, "b"));
    bench.insert(by_id(3, "a"));
    assert_eq!(bench.offer(), [1, 2, 3]);
    bench.settle(&[retry(), Blocked, Blocked]);
    assert_eq!(bench.offer(), [2], "at once");
    bench.settle(&[Accepted]);
    assert!(bench.offer().is_empty());
    assert_eq!(bench.lane.wake_at(bench.now), Some(bench.now + ms(100)));
    bench.pass(ms(100));
    assert_eq!(bench.offer(), [1, 3]);
    bench.settle(&[retry(), Blocked]);
    assert_eq!(bench.lane.wake_at(bench.now), Some(bench.now + ms(200)), "longer each time");
}

#[test]
fn a_partition_that_fails_waits_and_the_others_go_on() {
    let mut bench = Bench::new();
    for n in 1..3 {
        bench.insert(chained(n - 1, n));
        bench.insert(of(1, Order::Chained { previous: n + 9 }, n + 10, "other"));
    }
    assert_eq!(bench.offer(), [1, 11, 2, 12], "as in the stream");
    assert_eq!(bench.settle(&[retry(), Accepted, Blocked, Blocked]), ["r2"]);
    assert_eq!(bench.offer(), [12], "blocked behind what was taken: at once");
    bench.settle(&[Accepted]);
    assert!(bench.offer().is_empty());
    bench.pass(ms(100));
    assert_eq!(bench.offer(), [1, 2]);
    bench.settle(&[Accepted, Accepted]);
    assert_eq!((bench.lane.held(), bench.lane.wake_at(bench.now)), (0, None));
}

#[test]
fn a_dropped_offer_comes_again_as_a_whole_after_a_pause() {
    let mut bench = Bench::new();
    bench.insert(chained(0, 1));
    bench.insert(of(1, Order::Chained { previous: 0 }, 11, "other"));
    assert_eq!(bench.offer(), [1, 11]);
    assert!(bench.lane.settle(None, bench.now, 1.0).is_empty());
    assert!(bench.offer().is_empty());
    assert_eq!(bench.lane.wake_at(bench.now), Some(bench.now + ms(100)));
    bench.pass(ms(100));
    assert_eq!(bench.offer(), [1, 11]);
    // A receiver that miscounts has said nothing.
    assert!(bench.settle(&[Accepted]).is_empty());
    bench.pass(ms(200));
    assert_eq!(bench.offer(), [1, 11]);
}

#[test]
fn a_gap_that_lasts_is_announced_and_again_less_often() {
    let mut bench = Bench::new();
    bench.insert(chained(1, 2));
    let gap = [Receipt::Gap { have: 0 }];
    let mut announced = Vec::new();
    for _ in 0..300 {
        if !bench.offer().is_empty() {
            bench.settle(&gap);
        }
        let at = bench.now;
        announced.extend(bench.lane.announce(at).into_iter().map(|said| (said.have, at)));
        bench.pass(ms(100));
    }
    let start = bench.now - ms(30_000);
    let times: Vec<u128> = announced.iter().map(|(_, at)| (*at - start).as_millis()).collect();
    assert_eq!(times, [5_000, 10_000, 20_000]);
    assert!(announced.iter().all(|(have, _)| *have == 0));
}

#[test]
fn what_fills_a_gap_goes_out_at_once() {
    let mut bench = Bench::new();
    bench.insert(chained(1, 2));
    assert_eq!(bench.offer(), [2]);
    bench.settle(&[Receipt::Gap { have: 0 }]);
    assert!(bench.offer().is_empty());
    bench.insert(chained(0, 1));
    assert_eq!(bench.offer(), [1, 2]);
    bench.settle(&[Accepted, Accepted]);
    bench.pass(ms(60_000));
    assert!(bench.lane.announce(bench.now).is_empty());
}

#[test]
fn a_diverged_partition_waits_long() {
    let mut bench = Bench::new();
    bench.insert(chained(0, 1));
    assert_eq!(bench.offer(), [1]);
    bench.settle(&[Diverged]);
    bench.pass(DIVERGED_PAUSE - ms(1));
    assert!(bench.offer().is_empty());
    bench.pass(ms(1));
    assert_eq!(bench.offer(), [1]);
}

#[test]
fn offers_are_bounded_and_take_turns() {
    let mut bench = Bench::new();
    for n in 1..4 {
        bench.insert(chained(n - 1, n));
        bench.insert(of(1, Order::Chained { previous: n + 9 }, n + 10, "other"));
    }
    let mut take = |count, bytes| {
        let offered = bench.lane.offer(count, bytes, bench.now);
        let receipts = vec![Accepted; offered.len()];
        bench.settle(&receipts);
        offered.iter().map(|delivery| delivery.record.sequence).collect::<Vec<_>>()
    };
    assert_eq!(take(2, MAX), [1, 2]);
    assert_eq!(take(2, MAX), [11, 12]);
    assert_eq!(take(5, 1), [3], "one, however large");
    assert_eq!(take(5, MAX), [13]);
}

#[test]
fn the_broker_hears_of_what_is_held() {
    let mut bench = Bench::new();
    bench.insert(chained(0, 1));
    bench.pass(ms(10));
    bench.insert(chained(1, 2));
    let before = bench.now - ms(10);
    assert_eq!(bench.lane.unheard(before, bench.now), ["r1"]);
    assert!(bench.lane.unheard(before, bench.now).is_empty());
    assert_eq!(bench.lane.into_tokens(), ["r1", "r2"]);
}

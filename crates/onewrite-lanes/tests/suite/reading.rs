//! What a broker hears of what its lanes brought, and what becomes of a lane when its reader ends.

use std::{sync::Arc, time::Duration};

use onewrite_core::{
    Delivery, Event, Incarnation, Partition, Record, Sequence,
    broker::{Arrival, Feed as _, Receipt},
    record::Order,
    retry::Backoff,
    store::Store,
};
use onewrite_lanes::{Answer, LaneFeed, LaneFeedOptions, Reading};
use onewrite_store_sqlite::{Options, SqliteStore};
use tempfile::TempDir;

use crate::log::Log;

/// How long to wait for something that has to happen.
const PATIENCE: Duration = Duration::from_secs(10);

const LIFE: Incarnation = Incarnation(7);

/// A receiver's database, which keeps the leases.
pub(crate) struct Receiver {
    store: Arc<dyn Store>,
    _folder: TempDir,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(Options::new(folder.path().join("payments.db"))).unwrap();
        Self { store: Arc::new(store), _folder: folder }
    }

    pub(crate) fn feed(&self, log: &Log, owner: &'static str) -> LaneFeed {
        let reading = Reading {
            lease_ttl: Duration::from_millis(600),
            pending_max: 1_000,
            batch_max: 100,
            batch_bytes_max: 1 << 20,
            linger: Duration::from_millis(40),
            backoff: Backoff { initial: Duration::from_millis(1), cap: Duration::from_millis(5) },
            ..Reading::new("payments", Arc::clone(&self.store), owner)
        };
        let options = LaneFeedOptions {
            stream: "orders".into(),
            lanes: log.count(),
            look_with: "nothing",
            tell_every: Duration::from_millis(20),
            gap_patience: Duration::from_millis(20),
            reading,
        };
        LaneFeed::open(log.clone(), options)
    }
}

fn delivery(partition: Partition, sequence: Sequence) -> Delivery {
    let mut event = Event::new("Happened", "Thing", format!("key-{partition}"));
    event.id = Some(format!("e{partition}-{sequence}").into());
    let record = Record { source: "shop".into(), incarnation: LIFE, partition, sequence, event };
    Delivery { record, order: Order::Chained { previous: sequence - 1 } }
}

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let looks = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    soon(what, looks).await;
}

/// The next arrival, with the partition and sequence of what is in it.
async fn arrival(feed: &mut LaneFeed) -> (Box<dyn Arrival>, Vec<(Partition, Sequence)>) {
    let mut arrival = soon("an arrival", feed.next()).await.expect("the feed is open");
    let of = |delivery: Delivery| (delivery.record.partition, delivery.record.sequence);
    let held = arrival.take().into_iter().map(of).collect();
    (arrival, held)
}

async fn accept(arrival: Box<dyn Arrival>, count: usize) {
    arrival.settle(vec![Receipt::Accepted; count]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_is_done_and_nothing_past_it() {
    let (receiver, log) = (Receiver::new(), Log::new(1));
    log.send(&[delivery(0, 1), delivery(1, 1), delivery(1, 2)]);
    let mut feed = receiver.feed(&log, "one");
    let (first, held) = arrival(&mut feed).await;
    assert_eq!(held, [(0, 1), (1, 1), (1, 2)]);
    let busy = Receipt::Retry("busy".into());
    first.settle(vec![busy, Receipt::Accepted, Receipt::Duplicate]).await.unwrap();
    let (again, held) = arrival(&mut feed).await;
    assert_eq!((held, log.answered(Answer::Done)), (vec![(0, 1)], vec![1, 2]));
    assert_eq!(log.read_upto(0), 0, "the first is not done");
    accept(again, 1).await;
    until("the end of the lane", || log.read_upto(0) == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_event_is_given_up_and_the_others_go_on() {
    let (receiver, log) = (Receiver::new(), Log::new(1));
    log.send_nonsense(0);
    log.send(&[delivery(0, 1)]);
    let mut feed = receiver.feed(&log, "one");
    let (only, held) = arrival(&mut feed).await;
    assert_eq!((held, log.answered(Answer::GiveUp)), (vec![(0, 1)], vec![0]));
    accept(only, 1).await;
    until("the end of the lane", || log.read_upto(0) == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_again_while_it_is_held_is_one_delivery() {
    let (receiver, log) = (Receiver::new(), Log::new(1));
    log.send(&[delivery(0, 1), delivery(0, 2)]);
    let mut feed = receiver.feed(&log, "one");
    let (first, held) = arrival(&mut feed).await;
    assert_eq!(held, [(0, 1), (0, 2)]);
    log.cut();
    // Comes through the next reader only, behind what it brings again.
    log.send(&[delivery(0, 3)]);
    until("holding the third", || log.answered(Answer::InWork).contains(&2)).await;
    accept(first, 2).await;
    let (second, held) = arrival(&mut feed).await;
    assert_eq!(held, [(0, 3)]);
    accept(second, 1).await;
    until("the end of the lane", || log.read_upto(0) == 3).await;
    assert_eq!(log.answered(Answer::Done), [0, 1, 2], "each once");
}

/// A thousand messages are taken in at a time, and the error comes right behind them.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_breaks_is_followed_by_another() {
    for place in [0, 1, 1_000] {
        let (receiver, log) = (Receiver::new(), Log::new(1));
        let sent: Vec<Delivery> = (1..=1_200).map(|n| delivery(0, n)).collect();
        log.send(&sent);
        log.break_at(place);
        let mut feed = receiver.feed(&log, "one");
        let mut seen = Vec::new();
        while seen.len() < sent.len() {
            let (next, held) = arrival(&mut feed).await;
            accept(next, held.len()).await;
            seen.extend(held.into_iter().map(|(_, sequence)| sequence));
        }
        assert!(seen.into_iter().eq(1..=1_200), "broken before {place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_feed_hands_back_what_it_holds_and_another_gets_it() {
    let (receiver, log) = (Receiver::new(), Log::new(1));
    log.send(&[delivery(0, 1), delivery(1, 1)]);
    let mut one = receiver.feed(&log, "one");
    let (first, _) = arrival(&mut one).await;
    first.settle(vec![Receipt::Accepted, Receipt::Blocked]).await.unwrap();
    let (held, _) = arrival(&mut one).await;
    let closer = one.closer();
    let closing = tokio::spawn(async move { closer.close().await });
    log.send(&[delivery(0, 2)]);
    drop(held);
    soon("closing", closing).await.unwrap();
    assert!(log.answered(Answer::Back).starts_with(&[1]), "in the order of the lane");
    drop(one);
    let (rest, held) = arrival(&mut receiver.feed(&log, "two")).await;
    assert_eq!(held, [(1, 1), (0, 2)]);
    drop(rest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_predecessor_is_announced() {
    let (receiver, log) = (Receiver::new(), Log::new(1));
    log.send(&[delivery(3, 6)]);
    let mut feed = receiver.feed(&log, "one");
    let said = async {
        loop {
            let (waiting, _) = arrival(&mut feed).await;
            waiting.settle(vec![Receipt::Gap { have: 4 }]).await.unwrap();
            let said = log.announced.take("shop", LIFE);
            if !said.is_empty() {
                return said;
            }
        }
    };
    assert_eq!(soon("an announcement", said).await, [(3, 4)]);
}

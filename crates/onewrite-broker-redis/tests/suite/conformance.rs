//! The promises of a broker. A broker that stores settles for its sender when it has stored, so the
//! publisher's half is checked against the server instead of the receiver.

use std::{sync::Arc, time::Duration};

use onewrite_broker_redis::{Reading, RedisFeed, RedisSink};
use onewrite_core::{
    BoxFuture, Code, Delivery, Event, Incarnation, Partition, Record, Result,
    broker::{Arrival, Feed, Mark, Receipt, Sink},
    record::Order,
    retry::Backoff,
    store::Store,
};
use onewrite_store_sqlite::{Options, SqliteStore};
use onewrite_testkit::{
    conformance::{self, BrokerFixture},
    server::Redis,
};
use tempfile::TempDir;

use crate::rig::{
    Orders, Stream as _, address, ask, event, reading, server_with, stored, unique, url,
};

onewrite_testkit::feed_cases!(tests, Stream);

/// A stream with one lane, so that what was sent together arrives together.
pub(crate) struct Stream;

/// Keeps the server and the receiver's database as long as the end of the stream.
struct Kept<T>(T, #[expect(dead_code, reason = "kept")] Arc<(Redis, TempDir)>);

impl Sink for Kept<RedisSink> {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        self.0.publish(batch)
    }

    fn marks<'a>(
        &'a self,
        source: &'a str,
        life: Incarnation,
    ) -> BoxFuture<'a, Result<Option<Vec<Mark>>>> {
        self.0.marks(source, life)
    }
}

impl Feed for Kept<RedisFeed> {
    fn next(&mut self) -> BoxFuture<'_, Option<Box<dyn Arrival>>> {
        self.0.next()
    }
}

async fn ends() -> (RedisSink, RedisFeed, Arc<(Redis, TempDir)>) {
    let (server, folder) = (server_with(&[]).await, tempfile::tempdir().unwrap());
    let url = format!("{}&lanes=1&ack_wait=500ms", url(address(&server), &unique("conformance")));
    let sink = crate::rig::sink(&url).await;
    let store = SqliteStore::open(Options::new(folder.path().join("payments.db"))).unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let reading = Reading {
        linger: Duration::from_millis(40),
        backoff: Backoff { initial: Duration::from_millis(1), cap: Duration::from_millis(5) },
        ..reading("payments", store, "one")
    };
    (sink, Orders::feed(&url, reading).await, Arc::new((server, folder)))
}

type Pair = (Arc<dyn Sink>, Box<dyn Feed>);

impl BrokerFixture for Stream {
    fn pair(&self) -> BoxFuture<'_, Pair> {
        Box::pin(async {
            let (sink, feed, kept) = ends().await;
            let sink: Arc<dyn Sink> = Arc::new(Kept(sink, Arc::clone(&kept)));
            (sink, Box::new(Kept(feed, kept)) as Box<dyn Feed>)
        })
    }

    /// The marks are those of the stream itself: what was appended last.
    fn pair_with_marks(&self, marks: Vec<Mark>) -> BoxFuture<'_, Option<Pair>> {
        Box::pin(async {
            let (sink, feed) = self.pair().await;
            let of_mark = |mark: Mark| {
                let mut last = delivery(mark.partition, mark.sequence);
                last.record.event.id = Some(mark.last_id);
                last
            };
            let lasts: Vec<Delivery> = marks.into_iter().map(of_mark).collect();
            assert_eq!(sink.publish(&lasts).await.unwrap(), vec![Receipt::Accepted; lasts.len()]);
            Some((sink, feed))
        })
    }

    fn closed(&self) -> BoxFuture<'_, Option<Box<dyn Feed>>> {
        Box::pin(async {
            let (_, feed, kept) = ends().await;
            feed.closer().close().await;
            Some(Box::new(Kept(feed, kept)) as Box<dyn Feed>)
        })
    }
}

/// A delivery in the stream of `partition`, after the one before it.
pub(crate) fn delivery(partition: Partition, sequence: u64) -> Delivery {
    let event: Event = event(format!("key-{partition}"), format!("e{partition}-{sequence}"));
    let record = Record {
        source: "shop".into(),
        incarnation: Incarnation(0x00c0_ffee),
        partition,
        sequence,
        event: event.bytes("application/json", format!("{{\"n\": {sequence}}}")),
    };
    Delivery { record, order: Order::Chained { previous: sequence - 1 } }
}

mod sink {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn order() {
        conformance::sink::order(&Stream).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn cancel() {
        conformance::sink::cancel(&Stream).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn marks() {
        conformance::sink::marks(&Stream).await;
    }

    /// 2: behind a record that is not taken nothing of its partition is settled; the others go on.
    #[tokio::test(flavor = "multi_thread")]
    async fn prefix() {
        let (sink, _feed, kept) = ends().await;
        let mut batch: Vec<Delivery> =
            (1..6).flat_map(|n| [delivery(0, n), delivery(1, n)]).collect();
        // Its third record never comes.
        batch.remove(5);
        let receipts = sink.publish(&batch).await.unwrap();
        assert_eq!(receipts.len(), batch.len(), "aligned: one receipt each");
        for (delivery, receipt) in batch.iter().zip(&receipts) {
            let expected = match (delivery.record.partition, delivery.record.sequence) {
                (1, 4) => Receipt::Gap { have: 2 },
                (1, 5) => Receipt::Blocked,
                _ => Receipt::Accepted,
            };
            assert_eq!(*receipt, expected, "{}", delivery.record.id());
        }
        assert_eq!(ask::<Vec<String>>(&kept.0, "KEYS *:0").await.len(), 1);
        // Sent as it should be, it goes on where it stopped.
        let rest: Vec<Delivery> = (3..6).map(|n| delivery(1, n)).collect();
        assert_eq!(sink.publish(&rest).await.unwrap(), vec![Receipt::Accepted; 3]);
    }

    /// 3: what is settled survives a crash of the server.
    #[tokio::test(flavor = "multi_thread")]
    async fn durable() {
        survives(&[]).await;
    }

    /// The control: a server without its file does not keep what it answered for, and the case notices.
    #[tokio::test(flavor = "multi_thread")]
    async fn durable_notices_a_server_without_its_file() {
        let complaint = conformance::complaint(survives(&["--appendonly", "no"])).await;
        assert!(complaint.contains("durable: "), "for another reason: {complaint}");
    }

    async fn survives(options: &'static [&'static str]) {
        let server = server_with(options).await;
        let name = unique("durable");
        let sink = crate::rig::sink(&url(address(&server), &name)).await;
        let batch: Vec<Delivery> = (1..101).map(|n| delivery(0, n)).collect();
        assert_eq!(sink.publish(&batch).await.unwrap(), vec![Receipt::Accepted; 100]);
        server.kill();
        server.restart().await.unwrap();
        assert_eq!(stored(&server, &name).await, 100, "durable: what is there after the crash");
    }

    /// 4: without an answer nothing is settled, and the same batch can be sent again; what was stored
    /// is recognised.
    #[tokio::test(flavor = "multi_thread")]
    async fn unknown() {
        repeated("").await;
    }

    /// The control: a server that forgets what it appended last stores repeats, and the case notices.
    #[tokio::test(flavor = "multi_thread")]
    async fn unknown_notices_a_forgetful_server() {
        let complaint = conformance::complaint(repeated("DEL {NAME:0}:last")).await;
        assert!(complaint.contains("recognised as repeats"), "for another reason: {complaint}");
    }

    async fn repeated(forget: &'static str) {
        let server = server_with(&[]).await;
        let name = unique("unknown");
        let sink = crate::rig::sink(&url(address(&server), &name)).await;
        let batch: Vec<Delivery> = (1..4).map(|n| delivery(0, n)).collect();
        server.kill();
        let error = sink.publish(&batch).await.unwrap_err();
        assert_eq!(error.code(), Code::SinkUnreachable, "{error}");
        server.restart().await.unwrap();
        for _ in 0..2 {
            let receipts = sink.publish(&batch).await.expect("it connects again by itself");
            assert!(receipts.iter().all(Receipt::is_settled), "{receipts:?}");
            if !forget.is_empty() {
                assert_eq!(ask::<u64>(&server, &forget.replace("NAME", &name)).await, 1);
            }
        }
        assert_eq!(stored(&server, &name).await, 3, "recognised as repeats");
    }

    /// 5: receipts come in the order of the deliveries, one each.
    #[tokio::test(flavor = "multi_thread")]
    async fn aligned() {
        let (sink, _feed, _kept) = ends().await;
        assert_eq!(sink.publish(&[]).await.unwrap(), Vec::new());
        let known = [delivery(0, 1), delivery(2, 1)];
        assert_eq!(sink.publish(&known).await.unwrap(), vec![Receipt::Accepted; 2]);
        let batch = [delivery(0, 1), delivery(1, 1), delivery(2, 1), delivery(2, 2)];
        // What follows a repeat in the same call is sent once more, as an inbox has it.
        let expected =
            [Receipt::Duplicate, Receipt::Accepted, Receipt::Duplicate, Receipt::Blocked];
        assert_eq!(sink.publish(&batch).await.unwrap(), expected);
        assert_eq!(sink.publish(&batch[3..]).await.unwrap(), [Receipt::Accepted]);
        // A re-drive is never a repeat for the server: its receiver judges it.
        let redriven = Delivery { order: Order::ById, ..delivery(0, 1) };
        for _ in 0..2 {
            let receipts = sink.publish(std::slice::from_ref(&redriven)).await.unwrap();
            assert_eq!(receipts, [Receipt::Accepted]);
        }
    }

    /// Another record at the sequence appended last: its source went back in time.
    #[tokio::test(flavor = "multi_thread")]
    async fn another_record_at_the_same_place_diverges() {
        let (sink, _feed, _kept) = ends().await;
        sink.publish(&[delivery(0, 1), delivery(0, 2)]).await.unwrap();
        let mut other = delivery(0, 2);
        other.record.event.id = Some("another".into());
        assert_eq!(sink.publish(&[other]).await.unwrap(), [Receipt::Diverged]);
    }

    /// A gap event stands at the number of a record that its source still knows by another id: it says
    /// nothing about where the source stands.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_gap_event_is_no_record_to_compare_with() {
        let (sink, _feed, _kept) = ends().await;
        let mut gap = delivery(0, 2);
        gap.record.event.kind = onewrite_core::relay::GAP_KIND;
        let batch = [delivery(0, 1), gap];
        for kind in [Receipt::Accepted, Receipt::Duplicate] {
            assert_eq!(sink.publish(&batch).await.unwrap(), vec![kind; 2]);
        }
        let marks = sink.marks("shop", Incarnation(0x00c0_ffee)).await.unwrap().unwrap();
        assert_eq!(marks, [Mark { partition: 0, sequence: 2, last_id: "".into() }]);
    }

    /// One with another predecessor (the one before it was parked) is no repeat and no gap.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_changed_predecessor_passes() {
        let (sink, _feed, _kept) = ends().await;
        let mut later = delivery(0, 9);
        later.order = Order::Chained { previous: 1 };
        let batch = [delivery(0, 1), delivery(0, 2), later];
        assert_eq!(sink.publish(&batch).await.unwrap(), vec![Receipt::Accepted; 3]);
    }
}

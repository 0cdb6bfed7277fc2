//! The promises of a broker. A broker that stores settles for its sender when it has stored, so the
//! publisher's half is checked against the server instead of the receiver.

use std::{sync::Arc, time::Duration};

use lapin::{
    Channel,
    options::{QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use onewrite_broker_rabbitmq::{RabbitFeed, RabbitSink};
use onewrite_core::{
    BoxFuture, Code, Delivery, Event, Incarnation, Partition, Record, Result,
    broker::{Arrival, Feed, Receipt, Sink},
    record::Order,
    retry::Backoff,
    store::Store,
};
use onewrite_store_sqlite::{Options, SqliteStore};
use onewrite_testkit::{
    conformance::{self, BrokerFixture},
    streams::{Crash as _, Stream, reading},
};
use tempfile::TempDir;

use crate::rig::{Orders, event, sink, until};

onewrite_testkit::feed_cases!(tests, OneLane);

/// A stream with one lane, so that what was sent together arrives together.
pub(crate) struct OneLane;

/// Keeps the receiver's database as long as the end of the stream.
struct Kept<T>(T, #[expect(dead_code, reason = "kept")] Arc<TempDir>);

impl Sink for Kept<RabbitSink> {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        self.0.publish(batch)
    }
}

impl Feed for Kept<RabbitFeed> {
    fn next(&mut self) -> BoxFuture<'_, Option<Box<dyn Arrival>>> {
        self.0.next()
    }
}

async fn ends() -> (RabbitSink, RabbitFeed, Arc<TempDir>) {
    let (orders, folder) = (Orders::start().await, tempfile::tempdir().unwrap());
    let url = format!("{}&lanes=1", orders.url());
    let sink = sink(&url).await;
    let store = SqliteStore::open(Options::new(folder.path().join("payments.db"))).unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let reading = onewrite_broker_rabbitmq::Reading {
        linger: Duration::from_millis(40),
        backoff: Backoff { initial: Duration::from_millis(1), cap: Duration::from_millis(5) },
        ..reading("payments", store, "one")
    };
    (sink, Orders::feed(&url, reading).await, Arc::new(folder))
}

impl BrokerFixture for OneLane {
    fn pair(&self) -> BoxFuture<'_, (Arc<dyn Sink>, Box<dyn Feed>)> {
        Box::pin(async {
            let (sink, feed, kept) = ends().await;
            let sink: Arc<dyn Sink> = Arc::new(Kept(sink, Arc::clone(&kept)));
            (sink, Box::new(Kept(feed, kept)) as Box<dyn Feed>)
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
fn delivery(partition: Partition, sequence: u64) -> Delivery {
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

mod sinking {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn order() {
        conformance::sink::order(&OneLane).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn cancel() {
        conformance::sink::cancel(&OneLane).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn marks() {
        conformance::sink::marks(&OneLane).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn alone() {
        let (sink, _feed, _kept) = ends().await;
        conformance::sink::alone(&sink).await;
    }

    /// 2: behind a record that is not taken nothing of its partition is settled; the others go on.
    #[tokio::test(flavor = "multi_thread")]
    async fn prefix() {
        let orders = Orders::start().await;
        let sink = sink(&format!("{}&message_bytes_max=1000", orders.url())).await;
        let mut batch: Vec<Delivery> =
            (1..6).flat_map(|n| [delivery(0, n), delivery(1, n)]).collect();
        batch[5].record.event.data = vec![b' '; 1_001].into();
        let receipts = sink.publish(&batch).await.unwrap();
        assert_eq!(receipts.len(), batch.len(), "aligned: one receipt each");
        for (delivery, receipt) in batch.iter().zip(&receipts) {
            let expected = match (delivery.record.partition, delivery.record.sequence) {
                (1, 3) => matches!(receipt, Receipt::Refused(why) if why.contains("OW0005")),
                (1, 4..) => *receipt == Receipt::Blocked,
                _ => *receipt == Receipt::Accepted,
            };
            assert!(expected, "{}: {receipt:?}", delivery.record.id());
        }
    }

    /// 3: what is settled survives a crash of the server.
    #[tokio::test(flavor = "multi_thread")]
    async fn durable() {
        survives(true).await;
    }

    /// The control: what only a queue in memory took is gone, and the case notices.
    #[tokio::test(flavor = "multi_thread")]
    async fn durable_notices_a_queue_in_memory() {
        let complaint = conformance::complaint(survives(false)).await;
        assert!(complaint.contains("durable: "), "for another reason: {complaint}");
    }

    async fn survives(is_quorum: bool) {
        let orders = Orders::alone().await;
        let mut queue = format!("{}.payments.0", orders.name);
        let mut url = orders.url();
        if !is_quorum {
            queue = format!("{}.memory", orders.name);
            url = url.replace("&consumers=payments", "");
        }
        let sink = sink(&url).await;
        if !is_quorum {
            let channel = orders.channel().await;
            let (options, table) = (QueueDeclareOptions::default(), FieldTable::default());
            channel.queue_declare(queue.as_str().into(), options, table).await.unwrap();
            let (options, table) = (QueueBindOptions::default(), FieldTable::default());
            let (exchange, key) = (orders.name.as_str().into(), "0".into());
            let name = queue.as_str().into();
            channel.queue_bind(name, exchange, key, options, table).await.unwrap();
        }
        let batch: Vec<Delivery> = (1..101).map(|n| delivery(0, n)).collect();
        assert_eq!(sink.publish(&batch).await.unwrap(), vec![Receipt::Accepted; 100]);
        orders.kill();
        orders.restart().await;
        let mut stored = 0;
        // Its leader is elected first.
        for _ in 0..if is_quorum { 2_000 } else { 1 } {
            stored = found(&orders.channel().await, &queue).await;
            if stored > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(stored, 100, "durable: what is there after the crash");
    }

    /// Messages in a queue, if there is one.
    async fn found(channel: &Channel, queue: &str) -> u32 {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let found = channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
        found.map_or(0, |queue| queue.message_count())
    }

    /// 4: without an answer nothing is settled, and the same batch can be sent again. The server knows no
    /// repeats; that they take effect once is its receiver's doing (`hazards`).
    #[tokio::test(flavor = "multi_thread")]
    async fn unknown() {
        let orders = Orders::alone().await;
        let sink = sink(&orders.url()).await;
        let batch: Vec<Delivery> = (1..4).map(|n| delivery(0, n)).collect();
        orders.kill();
        let error = sink.publish(&batch).await.unwrap_err();
        assert_eq!(error.code(), Code::SinkUnreachable, "{error}");
        orders.restart().await;
        until("an answer", async || {
            let receipts = sink.publish(&batch).await;
            receipts.is_ok_and(|receipts| receipts.iter().all(Receipt::is_settled))
        })
        .await;
    }

    /// 5: receipts come in the order of the deliveries, one each.
    #[tokio::test(flavor = "multi_thread")]
    async fn aligned() {
        let (sink, _feed, _kept) = ends().await;
        assert_eq!(sink.publish(&[]).await.unwrap(), Vec::new());
        let batch = [delivery(0, 1), delivery(1, 1), delivery(2, 1), delivery(2, 2)];
        for _ in 0..2 {
            assert_eq!(sink.publish(&batch).await.unwrap(), vec![Receipt::Accepted; 4]);
        }
    }
}

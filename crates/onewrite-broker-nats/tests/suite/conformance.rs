//! The promises of a broker. A broker that stores settles for its sender when it has stored, so the
//! publisher's half is checked against the server instead of the receiver.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::stream::{Config, StorageType};
use onewrite_broker_nats::{NatsFeed, NatsSink, Reading};
use onewrite_core::{
    BoxFuture, Delivery, Result,
    broker::{Arrival, Feed, Receipt, Sink},
    record::Order,
    retry::Backoff,
    store::Store,
};
use onewrite_store_sqlite::{Options, SqliteStore};
use onewrite_testkit::conformance::{self, BrokerFixture};
use tempfile::TempDir;

use crate::{
    rig::{Orders, Stream as _, client, event, reading, unique, url},
    server::Nats,
};

onewrite_testkit::feed_cases!(tests, Stream);

/// A stream with one lane, so that what was sent together arrives together.
pub(crate) struct Stream;

/// Keeps the server and the receiver's database as long as the end of the stream.
struct Kept<T>(T, #[expect(dead_code, reason = "kept")] Arc<(Nats, TempDir)>);

impl Sink for Kept<NatsSink> {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        self.0.publish(batch)
    }
}

impl Feed for Kept<NatsFeed> {
    fn next(&mut self) -> BoxFuture<'_, Option<Box<dyn Arrival>>> {
        self.0.next()
    }
}

async fn ends() -> (NatsSink, NatsFeed, Arc<(Nats, TempDir)>) {
    let (server, folder) = (Nats::start().await, tempfile::tempdir().unwrap());
    let url = format!("{}&lanes=1&ack_wait=500ms", url(server.address(), &unique("conformance")));
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

impl BrokerFixture for Stream {
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

    fn delivery(partition: u16, sequence: u64) -> Delivery {
        let mut event = event(format!("key-{partition}"), format!("e{partition}-{sequence}"));
        event.data = format!("{{\"n\": {sequence}}}").into();
        let record = onewrite_core::Record {
            source: "shop".into(),
            incarnation: onewrite_core::Incarnation(7),
            partition,
            sequence,
            event,
        };
        Delivery { record, order: Order::Chained { previous: sequence - 1 } }
    }

    /// 2: behind a record that is not taken nothing of its partition is settled; the others go on.
    #[tokio::test(flavor = "multi_thread")]
    async fn prefix() {
        let (sink, _feed, _kept) = ends().await;
        let mut batch: Vec<Delivery> =
            (1..6).flat_map(|n| [delivery(0, n), delivery(1, n)]).collect();
        batch[5].record.event.data = vec![b' '; 1024 * 1024].into();
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
        survives(StorageType::File).await;
    }

    /// The control: a stream in memory does not keep what it acknowledged, and the case notices.
    #[tokio::test(flavor = "multi_thread")]
    async fn durable_notices_a_stream_in_memory() {
        let complaint = conformance::complaint(survives(StorageType::Memory)).await;
        assert!(complaint.contains("durable: "), "for another reason: {complaint}");
    }

    async fn survives(storage: StorageType) {
        let server = Nats::start().await;
        let name = unique("durable");
        let config = stream(&name, storage, Duration::from_secs(120));
        client(server.address()).await.create_stream(config).await.unwrap();
        let url = format!("{}&allow_memory=true", url(server.address(), &name));
        let sink = crate::rig::sink(&url).await;
        let batch: Vec<Delivery> = (1..101).map(|n| delivery(0, n)).collect();
        assert_eq!(sink.publish(&batch).await.unwrap(), vec![Receipt::Accepted; 100]);
        server.kill();
        server.restart().await;
        let stored = match client(server.address()).await.get_stream(&name).await {
            Ok(stream) => stream.cached_info().state.messages,
            Err(_) => 0,
        };
        assert_eq!(stored, 100, "durable: what is there after the crash");
    }

    fn stream(name: &str, storage: StorageType, duplicate_window: Duration) -> Config {
        Config {
            name: name.into(),
            subjects: vec![format!("{name}.>")],
            description: Some("onewrite lanes=8".into()),
            storage,
            duplicate_window,
            ..Config::default()
        }
    }

    /// 4: without an answer nothing is settled, and the same batch can be sent again; what was stored
    /// is recognised.
    #[tokio::test(flavor = "multi_thread")]
    async fn unknown() {
        repeated(Duration::from_secs(120)).await;
    }

    /// The control: a server that forgets ids at once stores repeats, and the case notices.
    #[tokio::test(flavor = "multi_thread")]
    async fn unknown_notices_a_forgetful_server() {
        let complaint = conformance::complaint(repeated(Duration::from_millis(100))).await;
        assert!(complaint.contains("recognised by their ids"), "for another reason: {complaint}");
    }

    async fn repeated(duplicate_window: Duration) {
        let server = Nats::start().await;
        let name = unique("unknown");
        let config = stream(&name, StorageType::File, duplicate_window);
        client(server.address()).await.create_stream(config).await.unwrap();
        let sink = crate::rig::sink(&url(server.address(), &name)).await;
        let batch: Vec<Delivery> = (1..4).map(|n| delivery(0, n)).collect();
        server.kill();
        let error = sink.publish(&batch).await.unwrap_err();
        assert_eq!(error.code(), onewrite_core::Code::SinkUnreachable);
        server.restart().await;
        for _ in 0..2 {
            let receipts = loop {
                match sink.publish(&batch).await {
                    Ok(receipts) => break receipts,
                    Err(error) => println!("not yet: {error}"),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            };
            assert!(receipts.iter().all(Receipt::is_settled), "{receipts:?}");
            // Longer than the forgetful server remembers.
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        let stored = client(server.address()).await.get_stream(&name).await.unwrap();
        assert_eq!(stored.cached_info().state.messages, 3, "recognised by their ids");
    }

    /// 5: receipts come in the order of the deliveries, one each.
    #[tokio::test(flavor = "multi_thread")]
    async fn aligned() {
        let (sink, _feed, _kept) = ends().await;
        assert_eq!(sink.publish(&[]).await.unwrap(), Vec::new());
        let known = [delivery(0, 1), delivery(2, 1)];
        assert_eq!(sink.publish(&known).await.unwrap(), vec![Receipt::Accepted; 2]);
        let batch = [delivery(0, 1), delivery(1, 1), delivery(2, 1), delivery(2, 2)];
        let expected =
            [Receipt::Duplicate, Receipt::Accepted, Receipt::Duplicate, Receipt::Accepted];
        assert_eq!(sink.publish(&batch).await.unwrap(), expected);
        // A re-drive is never a repeat for the server: its receiver judges it.
        let redriven = Delivery { order: Order::ById, ..delivery(0, 1) };
        for _ in 0..2 {
            let receipts = sink.publish(std::slice::from_ref(&redriven)).await.unwrap();
            assert_eq!(receipts, [Receipt::Accepted]);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn alone() {
        let (sink, _feed, _kept) = ends().await;
        conformance::sink::alone(&sink).await;
    }
}

//! The promises of a broker. A broker that stores settles for its sender when it has stored, so the
//! publisher's half is checked against the server instead of the receiver.

use std::{sync::Arc, time::Duration};

use onewrite_broker_kafka::{KafkaFeed, KafkaFeedOptions, KafkaSink};
use onewrite_core::{
    BoxFuture, Code, Delivery, Event,
    broker::{Feed, Mark, Receipt, Sink},
    record::Order,
    retry::Backoff,
    store::Store,
};
use onewrite_store_sqlite::{Options, SqliteStore};
use onewrite_testkit::conformance::{self, BrokerFixture};
use tempfile::TempDir;

use crate::rig::{
    create, delivery, event, own_server, reading, server, stored, unique, until, url,
};

onewrite_testkit::feed_cases!(tests, Stream);

/// A topic with one lane, so that what was sent together arrives together.
pub(crate) struct Stream;

/// Keeps the receiver's database as long as the end of the stream.
struct Kept(KafkaFeed, #[expect(dead_code, reason = "kept")] TempDir);

impl Feed for Kept {
    fn next(&mut self) -> BoxFuture<'_, Option<Box<dyn onewrite_core::broker::Arrival>>> {
        self.0.next()
    }
}

async fn ends() -> (KafkaSink, KafkaFeed, TempDir) {
    let (server, folder) = (server().await, tempfile::tempdir().unwrap());
    let stream = unique("conformance");
    create(&server, &stream, 1).await;
    let url = format!("{}&lanes=1", url(&server, &stream));
    let sink = crate::rig::sink(&url).await;
    let store = SqliteStore::open(Options::new(folder.path().join("payments.db"))).unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let mut options: KafkaFeedOptions = reading(&url, store, "one");
    options.reading.linger = Duration::from_millis(40);
    options.reading.backoff =
        Backoff { initial: Duration::from_millis(1), cap: Duration::from_millis(5) };
    (sink, KafkaFeed::open(options).await.unwrap(), folder)
}

type Pair = (Arc<dyn Sink>, Box<dyn Feed>);

impl BrokerFixture for Stream {
    fn pair(&self) -> BoxFuture<'_, Pair> {
        Box::pin(async {
            let (sink, feed, folder) = ends().await;
            (Arc::new(sink) as Arc<dyn Sink>, Box::new(Kept(feed, folder)) as Box<dyn Feed>)
        })
    }

    /// It keeps none: the chain is enough.
    fn pair_with_marks(&self, _: Vec<Mark>) -> BoxFuture<'_, Option<Pair>> {
        Box::pin(std::future::ready(None))
    }

    fn closed(&self) -> BoxFuture<'_, Option<Box<dyn Feed>>> {
        Box::pin(async {
            let (_, feed, folder) = ends().await;
            feed.closer().close().await;
            Some(Box::new(Kept(feed, folder)) as Box<dyn Feed>)
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

    async fn one_lane(url: &str) -> KafkaSink {
        crate::rig::sink(url).await
    }

    /// 2: behind a record that is not taken nothing of its partition is settled; the others go on.
    #[tokio::test(flavor = "multi_thread")]
    async fn prefix() {
        let (server, stream) = (server().await, unique("prefix"));
        create(&server, &stream, 1).await;
        let sink = one_lane(&format!("{}&message_bytes_max=2000", url(&server, &stream))).await;
        let mut batch: Vec<Delivery> =
            (1..6).flat_map(|n| [delivery(0, n), delivery(1, n)]).collect();
        let large = &mut batch[5].record.event;
        *large = Event {
            id: large.id.clone(),
            ..event("key-1", "large").bytes("text/plain", "x".repeat(4_000))
        };
        let receipts = sink.publish(&batch).await.unwrap();
        assert_eq!(receipts.len(), batch.len(), "aligned: one receipt each");
        for (delivery, receipt) in batch.iter().zip(&receipts) {
            match (delivery.record.partition, delivery.record.sequence) {
                (1, 3) => assert!(
                    matches!(receipt, Receipt::Refused(why) if why.contains("OW0005")),
                    "{receipt:?}"
                ),
                (1, 4..) => assert_eq!(*receipt, Receipt::Blocked),
                _ => assert_eq!(*receipt, Receipt::Accepted),
            }
        }
        assert_eq!(stored(&server, &stream).await.len(), 7, "nothing behind it was sent");
    }

    /// 3: what is settled is at the server, in its lane and in its order.
    #[tokio::test(flavor = "multi_thread")]
    async fn durable() {
        let (server, stream) = (server().await, unique("durable"));
        create(&server, &stream, 3).await;
        let sink = one_lane(&url(&server, &stream)).await;
        assert_eq!(sink.lanes(), 3);
        let batch: Vec<Delivery> =
            (1..101).flat_map(|n| (0..4).map(move |partition| delivery(partition, n))).collect();
        assert_eq!(sink.publish(&batch).await.unwrap(), vec![Receipt::Accepted; 400]);
        let found = stored(&server, &stream).await;
        assert_eq!(found.len(), 400);
        for partition in 0..4_u16 {
            let (key, lane) = (format!("key-{partition}"), i32::from(partition % 3));
            let of: Vec<_> = found.iter().filter(|one| one.key == key.as_bytes()).collect();
            assert!(of.iter().all(|one| one.lane == lane), "each partition in its lane");
            let ids: Vec<&str> = of.iter().filter_map(|one| one.header("ce_id")).collect();
            let sent: Vec<String> = (1..101).map(|n| format!("e{partition}-{n}")).collect();
            assert_eq!(ids, sent);
            assert_eq!(of[0].payload, b"{\"n\": 1}");
            assert_eq!(of[0].header("content-type"), Some("application/json"));
        }
    }

    /// The control: a server that answers with an error has stored nothing, and nothing is settled.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_server_refuses_is_not_settled() {
        let server = own_server().await;
        create(server.address(), "refused", 1).await;
        let sink = one_lane(&url(server.address(), "refused")).await;
        // A policy: nothing that sending again would help.
        server.address().command("fail produce 1 44").await.unwrap();
        let error = sink.publish(&[delivery(0, 1)]).await.unwrap_err();
        assert_eq!(error.code(), Code::SinkRefused, "{error}");
        assert!(stored(server.address(), "refused").await.is_empty());
        assert_eq!(sink.publish(&[delivery(0, 1)]).await.unwrap(), [Receipt::Accepted]);
    }

    /// 4: without an answer nothing is settled, and the same batch can be sent again.
    #[tokio::test(flavor = "multi_thread")]
    async fn unknown() {
        let server = own_server().await;
        create(server.address(), "unknown", 1).await;
        let url = url(server.address(), "unknown").replace("timeout=3", "timeout=1");
        let sink = one_lane(&url).await;
        let batch: Vec<Delivery> = (1..4).map(|n| delivery(0, n)).collect();
        server.address().command("down").await.unwrap();
        let error = sink.publish(&batch).await.unwrap_err();
        assert_eq!(error.code(), Code::SinkUnreachable, "{error}");
        server.address().command("up").await.unwrap();
        until("settling", async || {
            sink.publish(&batch).await.is_ok_and(|all| all.iter().all(Receipt::is_settled))
        })
        .await;
    }

    /// 5: receipts come in the order of the deliveries, one each.
    #[tokio::test(flavor = "multi_thread")]
    async fn aligned() {
        let (sink, _feed, _folder) = ends().await;
        assert_eq!(sink.publish(&[]).await.unwrap(), Vec::new());
        let batch = [delivery(0, 1), delivery(1, 1), delivery(2, 1), delivery(2, 2)];
        // What was sent before is stored once more: its receiver knows it.
        for _ in 0..2 {
            assert_eq!(sink.publish(&batch).await.unwrap(), vec![Receipt::Accepted; 4]);
        }
        let redriven = Delivery { order: Order::ById, ..delivery(0, 1) };
        let receipts = sink.publish(std::slice::from_ref(&redriven)).await.unwrap();
        assert_eq!(receipts, [Receipt::Accepted]);
    }

    /// A call that is given up leaves nothing behind that the next ones wait for or mistake for theirs.
    #[tokio::test(flavor = "multi_thread")]
    async fn calls_at_the_same_time_get_their_own_receipts() {
        let (sink, _feed, _folder) = ends().await;
        let sink = Arc::new(sink);
        let calls = (0..8_u16).map(|partition| {
            let sink = Arc::clone(&sink);
            let batch: Vec<Delivery> = (1..51).map(|n| delivery(partition, n)).collect();
            tokio::spawn(async move { sink.publish(&batch).await.unwrap() })
        });
        for call in calls.collect::<Vec<_>>() {
            assert_eq!(call.await.unwrap(), vec![Receipt::Accepted; 50]);
        }
    }
}

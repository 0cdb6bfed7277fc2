//! What is wrong with a server or a topic is said at once, with its cure; and the partitions are Java's.

use std::time::Duration;

use onewrite_broker_kafka::{KafkaFeed, gap_topic};
use onewrite_core::{
    Code, Delivery, Error,
    broker::{Receipt, Sink as _},
};

use crate::rig::{
    Consumer, Shop, create, delivery, reading, refusal, server, sink, stored, unique, until, url,
};

fn assert_says(error: &Error, code: Code, parts: &[&str]) {
    assert_eq!(error.code(), code, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "`{part}` is missing: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_halves_find_the_same_topic() {
    let (server, folder) = (server().await, tempfile::tempdir().unwrap());
    let consumer = Consumer::open(folder.path()).await;
    let stream = unique("both");
    create(&server, &stream, 3).await;
    let url = format!("{}&lanes=3", url(&server, &stream));
    let feed = KafkaFeed::open(reading(&url, consumer.store(), "one")).await.unwrap();
    let sink = sink(&url.replace("&lanes=3", "")).await;
    assert_eq!(sink.lanes(), 3, "as the topic has");
    feed.closer().close().await;
    let error = refusal(&url.replace("lanes=3", "lanes=4")).await;
    assert_says(&error, Code::InvalidConfig, &["has 3 partitions and not 4"]);
}

/// A topic that is missing is created, by the servers' own rule where they have no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_created() {
    let server = server().await;
    let stream = unique("missing");
    let sink = sink(&url(&server, &stream)).await;
    assert_eq!(sink.publish(&[delivery(0, 1)]).await.unwrap(), [Receipt::Accepted]);
    assert_eq!(stored(&server, &stream).await.len(), 1);
    assert!(stored(&server, &gap_topic(&stream)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_weakens_a_promise_is_told() {
    let shop = Shop::new().await;
    let warnings = sink(&shop.url()).await.warnings().await.unwrap();
    let said = warnings.join("\n");
    assert!(said.contains("one replica"), "{said}");
    assert_eq!(said.contains("DescribeConfigs"), shop.server.is_mock(), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_unreachable() {
    let error = refusal("kafka://127.0.0.1:1/orders?timeout=1").await;
    assert_says(&error, Code::SinkUnreachable, &["127.0.0.1:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_that_is_not_built_in_is_refused() {
    let error = refusal("kafka+ssl://ann:s3cret@127.0.0.1:1/orders?timeout=1").await;
    assert_says(&error, Code::InvalidConfig, &["built without TLS", "features = [\"ssl\"]"]);
    assert!(!error.to_string().contains("s3cret"));
}

/// Kafka's partition of a key is that of Java's clients: `murmur2`, its highest bit cleared, modulo their
/// number. The values are those that clients of every language are tested with.
#[tokio::test(flavor = "multi_thread")]
async fn keys_go_where_java_sends_them() {
    let known =
        [("kafka", 0xd067_cf64_u32), ("giberish123456789", 0x8f55_2b0c), ("1234", 0x9fc9_7b14)];
    let (server, stream) = (server().await, unique("keys"));
    create(&server, &stream, 7).await;
    let by_key = sink(&format!("{}&partition_by=key", url(&server, &stream))).await;
    let of_key = |(n, (key, _)): (usize, &(&str, u32))| {
        let mut one = delivery(0, u64::try_from(n).unwrap() + 1);
        one.record.event.key = Some((*key).to_owned().into());
        one
    };
    let batch: Vec<Delivery> = known.iter().enumerate().map(of_key).collect();
    assert_eq!(by_key.publish(&batch).await.unwrap(), vec![Receipt::Accepted; 3]);
    let found = stored(&server, &stream).await;
    for (key, hash) in known {
        let one = found.iter().find(|one| one.key == key.as_bytes()).unwrap();
        assert_eq!(u32::try_from(one.lane).unwrap(), (hash & 0x7fff_ffff) % 7, "{key}");
        // The chain would span partitions: it is left out.
        assert!(one.headers.iter().all(|(name, _)| !name.contains("previous")), "{one:?}");
    }
    // The control: our own partition decides otherwise.
    let own = sink(&url(&server, &stream)).await;
    own.publish(&batch).await.unwrap();
    let in_first = |all: &[crate::rig::Stored]| all.iter().filter(|one| one.lane == 0).count();
    let now = stored(&server, &stream).await;
    assert_eq!(in_first(&now), in_first(&found) + 3, "{now:?}");
}

/// By key everything takes effect once, each key in its order, without the chain.
#[tokio::test(flavor = "multi_thread")]
async fn what_goes_by_key_takes_effect_in_its_order() {
    let mut shop = Shop::new().await;
    let by_key = format!("{}&partition_by=key", shop.url());
    let relay = shop.source.relay(sink(&by_key).await);
    shop.source.place(300, 20).await;
    until("the end of the log", async || shop.source.is_settled().await).await;
    let receiver = shop.consumer.receive(shop.feed().await);
    crate::rig::assert_clean(&shop.consumer.all_of(&shop.source).await);
    tokio::time::sleep(Duration::from_millis(100)).await;
    relay.stop().await;
    receiver.stop().await;
}

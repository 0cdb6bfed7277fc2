//! What the tests share: the topic between a source and a receiver.

use std::{sync::Arc, time::Duration};

use onewrite_broker_kafka::{
    KafkaFeed, KafkaFeedOptions, KafkaSink, KafkaSinkOptions, Reading, gap_topic,
};
use onewrite_core::{
    Delivery, Error, Event, Incarnation, Partition, Record, record::Order, retry::Backoff,
    store::Store,
};
pub(crate) use onewrite_testkit::rig::{
    Consumer, PATIENCE, Source, event, lanes_of, unique, until, within,
};
use onewrite_testkit::{
    history::Verdict,
    server::{Kafka, KafkaAddress, shared_kafka},
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    consumer::{BaseConsumer, CommitMode, Consumer as _, StreamConsumer},
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use tempfile::TempDir;

/// The URL of a topic of a server. A topic of the tests is created before.
pub(crate) fn url(address: &KafkaAddress, stream: &str) -> String {
    format!("{}/{stream}?timeout=3&gap_patience=1", address.url())
}

/// A server of one's own, to be disturbed. It dies with this value.
pub(crate) async fn own_server() -> Kafka {
    Kafka::start().await.expect("the mock of Kafka starts")
}

/// The server of the test run.
pub(crate) async fn server() -> KafkaAddress {
    shared_kafka().await.expect("a Kafka server starts").clone()
}

/// Creates a topic and the one of its announcements.
pub(crate) async fn create(server: &KafkaAddress, stream: &str, lanes: u16) {
    for (name, lanes) in [(stream, lanes), (&gap_topic(stream), 1)] {
        if server.is_mock() {
            server.create_topic(name, lanes).await.unwrap();
            continue;
        }
        let admin: AdminClient<_> = client(server, "creating").create().unwrap();
        let topic = NewTopic::new(name, lanes.into(), TopicReplication::Fixed(1));
        let created = admin.create_topics([&topic], &AdminOptions::new()).await.unwrap();
        assert!(created.iter().all(Result::is_ok), "{created:?}");
    }
}

/// A sink for a topic.
pub(crate) async fn sink(url: &str) -> KafkaSink {
    KafkaSink::connect(KafkaSinkOptions::from_url(url).unwrap()).await.unwrap()
}

/// Why a sink cannot be opened.
pub(crate) async fn refusal(url: &str) -> Error {
    let options = KafkaSinkOptions::from_url(url).unwrap();
    KafkaSink::connect(options).await.map(drop).expect_err("it is refused")
}

/// How to read a topic without losing time.
pub(crate) fn reading(url: &str, store: Arc<dyn Store>, owner: &str) -> KafkaFeedOptions {
    let reading = Reading {
        lease_ttl: Duration::from_millis(600),
        backoff: Backoff { initial: Duration::from_millis(2), cap: Duration::from_millis(100) },
        ..Reading::new("payments", store, owner.to_owned())
    };
    KafkaFeedOptions::from_url(url, reading).unwrap()
}

/// A source, a consumer, and the topic between them.
pub(crate) struct Shop {
    pub(crate) server: KafkaAddress,
    pub(crate) source: Source,
    pub(crate) consumer: Consumer,
    pub(crate) stream: String,
    folder: TempDir,
}

impl Shop {
    pub(crate) async fn new() -> Self {
        Self::on(server().await, 8).await
    }

    pub(crate) async fn on(server: KafkaAddress, lanes: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stream = unique("orders");
        create(&server, &stream, lanes).await;
        Self {
            server,
            source: Source::open(folder.path()),
            consumer: Consumer::open(folder.path()).await,
            stream,
            folder,
        }
    }

    /// Where the databases are.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub(crate) fn url(&self) -> String {
        url(&self.server, &self.stream)
    }

    pub(crate) async fn feed(&self) -> KafkaFeed {
        self.feed_at(&self.url()).await
    }

    pub(crate) async fn feed_at(&self, url: &str) -> KafkaFeed {
        KafkaFeed::open(reading(url, self.consumer.store(), &unique("feed"))).await.unwrap()
    }

    /// Everything in the topic.
    pub(crate) async fn stored(&self) -> Vec<Stored> {
        stored(&self.server, &self.stream).await
    }

    /// Of each lane, how far the group is.
    pub(crate) async fn committed(&self) -> Vec<Option<i64>> {
        committed(&self.server, &self.stream).await
    }
}

/// A message as it is in the topic.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) lane: i32,
    pub(crate) key: Vec<u8>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) payload: Vec<u8>,
}

impl Stored {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name)?;
        std::str::from_utf8(&found.1).ok()
    }
}

fn client(server: &KafkaAddress, group: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", format!("127.0.0.1:{}", server.port()));
    config.set("group.id", group).set("enable.auto.commit", "false");
    config.set("enable.partition.eof", "true").set("auto.offset.reset", "earliest");
    config
}

/// Reads a topic from its beginning to its end.
pub(crate) async fn stored(server: &KafkaAddress, stream: &str) -> Vec<Stored> {
    let (config, stream) = (client(server, &unique("looking")), stream.to_owned());
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = config.create().unwrap();
        let found = consumer.fetch_metadata(Some(&stream), PATIENCE).unwrap();
        let lanes: Vec<i32> = found.topics()[0].partitions().iter().map(|one| one.id()).collect();
        let mut places = TopicPartitionList::new();
        for lane in &lanes {
            places.add_partition_offset(&stream, *lane, Offset::Beginning).unwrap();
        }
        consumer.assign(&places).unwrap();
        let (mut out, mut ended) = (Vec::new(), 0);
        while ended < lanes.len() {
            match consumer.poll(PATIENCE).expect("the topic is read to its end") {
                Ok(message) => out.push(taken(&message)),
                Err(rdkafka::error::KafkaError::PartitionEOF(_)) => ended += 1,
                Err(error) => println!("reading {stream}: {error}"),
            }
        }
        out
    })
    .await
    .unwrap()
}

fn taken(message: &impl rdkafka::Message) -> Stored {
    use rdkafka::message::Headers as _;
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    let owned = |header: Header<'_, &[u8]>| {
        (header.key.to_owned(), header.value.unwrap_or_default().to_vec())
    };
    Stored {
        lane: message.partition(),
        key: message.key().unwrap_or_default().to_vec(),
        headers: headers.map(owned).collect(),
        payload: message.payload().unwrap_or_default().to_vec(),
    }
}

/// How far the group of the tests' receivers is in each lane.
pub(crate) async fn committed(server: &KafkaAddress, stream: &str) -> Vec<Option<i64>> {
    let (config, stream) = (client(server, "payments"), stream.to_owned());
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = config.create().unwrap();
        let found = consumer.fetch_metadata(Some(&stream), PATIENCE).unwrap();
        let mut places = TopicPartitionList::new();
        for lane in 0..found.topics()[0].partitions().len() {
            places.add_partition(&stream, i32::try_from(lane).unwrap());
        }
        let places = consumer.committed_offsets(places, PATIENCE).unwrap();
        places
            .elements()
            .iter()
            .map(|place| place.offset().to_raw().filter(|at| *at >= 0))
            .collect()
    })
    .await
    .unwrap()
}

/// Moves the group in every lane, as an operator can.
pub(crate) async fn commit(server: &KafkaAddress, stream: &str, offset: i64) {
    let (config, stream) = (client(server, "payments"), stream.to_owned());
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = config.create().unwrap();
        let found = consumer.fetch_metadata(Some(&stream), PATIENCE).unwrap();
        let mut places = TopicPartitionList::new();
        for lane in found.topics()[0].partitions() {
            places.add_partition_offset(&stream, lane.id(), Offset::Offset(offset)).unwrap();
        }
        consumer.commit(&places, CommitMode::Sync).unwrap();
    })
    .await
    .unwrap();
}

/// Publishes past the sink, as others do.
pub(crate) async fn send(
    server: &KafkaAddress,
    stream: &str,
    lane: i32,
    headers: &[(&str, &str)],
    payload: &[u8],
) {
    let producer: FutureProducer = client(server, "x").create().unwrap();
    let mut all = OwnedHeaders::new();
    for (key, value) in headers {
        all = all.insert(Header { key, value: Some(*value) });
    }
    let record = FutureRecord::<(), _>::to(stream).partition(lane).headers(all).payload(payload);
    producer.send(record, PATIENCE).await.unwrap();
}

/// Listens to what is announced from now on.
pub(crate) async fn listen(server: &KafkaAddress, stream: &str) -> StreamConsumer {
    let consumer: StreamConsumer = client(server, &unique("listening")).create().unwrap();
    let mut place = TopicPartitionList::new();
    place.add_partition_offset(&gap_topic(stream), 0, Offset::Beginning).unwrap();
    consumer.assign(&place).unwrap();
    consumer
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

pub(crate) fn assert_clean(verdict: &Verdict) {
    assert!(verdict.is_clean(), "{verdict}");
}

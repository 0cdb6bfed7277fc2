//! What the tests share: the stream between a source and a receiver.

use std::net::SocketAddr;

use futures::StreamExt as _;
use onewrite_broker_redis::{
    Announcement, Closer, Reading, RedisFeed, RedisFeedOptions, RedisSink, RedisSinkOptions,
    gap_channel,
};
use onewrite_core::{Delivery, cloudevents};
pub(crate) use onewrite_testkit::{
    rig::{Consumer, PATIENCE, event, unique, until, within},
    streams::{Stream, assert_clean, reading},
};
use onewrite_testkit::{
    server::Redis,
    streams::{self, Crash},
};
use redis::{FromRedisValue, aio::MultiplexedConnection};
use tokio::sync::mpsc;

/// The URL of a stream of a server.
pub(crate) fn url(address: SocketAddr, stream: &str) -> String {
    format!("redis://{address}/{stream}?timeout=1")
}

/// A running server; these tests disturb it, so each has its own. It dies with this value.
pub(crate) async fn server_with(options: &[&str]) -> Redis {
    Redis::start_with(options).await.expect("a Redis server starts")
}

pub(crate) fn address(server: &Redis) -> SocketAddr {
    ([127, 0, 0, 1], server.port()).into()
}

/// Asks a server what a test wants to know or to disturb, in words with spaces between.
pub(crate) async fn ask<T: FromRedisValue>(server: &Redis, words: &str) -> T {
    let mut words = words.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    for word in words {
        command.arg(word);
    }
    command.query_async(&mut client(server).await).await.unwrap()
}

pub(crate) async fn client(server: &Redis) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// A sink for a stream.
pub(crate) async fn sink(url: &str) -> RedisSink {
    RedisSink::connect(RedisSinkOptions::from_url(url).unwrap()).await.unwrap()
}

/// A stream on a server of its own: these tests disturb it.
pub(crate) struct Orders {
    pub(crate) server: Redis,
    pub(crate) name: String,
}

pub(crate) type Shop = streams::Shop<Orders>;

impl Orders {
    pub(crate) fn on(server: Redis) -> Self {
        Self { server, name: unique("orders") }
    }

    /// Entries in all lanes.
    pub(crate) async fn stored(&self) -> u64 {
        stored(&self.server, &self.name).await
    }
}

impl Stream for Orders {
    type Sink = RedisSink;
    type Feed = RedisFeed;

    async fn start() -> Self {
        Self::on(server_with(&[]).await)
    }

    fn address(&self) -> SocketAddr {
        address(&self.server)
    }

    fn url_at(&self, address: SocketAddr) -> String {
        format!("{}&ack_wait=500ms", url(address, &self.name))
    }

    fn patient_url(&self) -> String {
        format!("{}&ack_wait=60s", url(self.address(), &self.name))
    }

    async fn sink(url: &str) -> RedisSink {
        sink(url).await
    }

    async fn feed(url: &str, reading: Reading) -> RedisFeed {
        let options = RedisFeedOptions::from_url(url, reading).unwrap();
        RedisFeed::open(options).await.unwrap()
    }

    fn closer(feed: &RedisFeed) -> Closer {
        feed.closer()
    }

    /// Deletes an entry that has a successor in its partition.
    async fn lose_one(&self) {
        for lane in 0..8 {
            let key = format!("{}:{lane}", self.name);
            let entries: Vec<(String, Vec<String>)> =
                ask(&self.server, &format!("XRANGE {key} - + COUNT 1")).await;
            if let [(id, _)] = &entries[..] {
                assert_eq!(ask::<u64>(&self.server, &format!("XDEL {key} {id}")).await, 1);
                return;
            }
        }
        panic!("there is nothing to delete");
    }

    async fn announced(&self) -> mpsc::UnboundedReceiver<Announcement> {
        let listener = redis::Client::open(self.server.url()).unwrap();
        let mut listener = listener.get_async_pubsub().await.unwrap();
        listener.subscribe(gap_channel(&self.name)).await.unwrap();
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut messages = listener.into_on_message();
            while let Some(message) = messages.next().await {
                let said = serde_json::from_slice(message.get_payload_bytes()).unwrap();
                let _ = sender.send(said);
            }
        });
        receiver
    }

    /// Beside the script, as a mirror or an operator might.
    async fn append(&self, delivery: &Delivery) {
        let key = format!("{}:{}", self.name, delivery.record.partition % 8);
        let mut add = redis::cmd("XADD");
        add.arg(key).arg("*").arg("data").arg(&delivery.record.event.data[..]);
        for (name, value) in cloudevents::encode_attributes(delivery) {
            add.arg(name).arg(value);
        }
        add.exec_async(&mut client(&self.server).await).await.unwrap();
    }

    async fn foreign(&self) {
        let add = format!("XADD {}:0 *", self.name);
        ask::<String>(&self.server, &format!("{add} message hello")).await;
        for _ in 0..2 {
            let event = "specversion 1.0 id f1 type T source elsewhere subject f";
            ask::<String>(&self.server, &format!("{add} {event}")).await;
        }
    }
}

impl Crash for Orders {
    fn kill(&self) {
        self.server.kill();
    }

    async fn restart(&self) {
        self.server.restart().await.expect("the Redis server starts again");
    }
}

pub(crate) async fn stored(server: &Redis, stream: &str) -> u64 {
    let mut asked = redis::pipe();
    for lane in 0..8 {
        asked.cmd("XLEN").arg(format!("{stream}:{lane}"));
    }
    let lanes: Vec<u64> = asked.query_async(&mut client(server).await).await.unwrap();
    lanes.into_iter().sum()
}

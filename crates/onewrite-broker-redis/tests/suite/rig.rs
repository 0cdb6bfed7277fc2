//! What the tests share: the stream between a source and a receiver.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use onewrite_broker_redis::{RedisFeed, RedisFeedOptions, RedisSink, RedisSinkOptions};
use onewrite_core::{retry::Backoff, store::Store};
pub(crate) use onewrite_testkit::rig::{
    Consumer, PATIENCE, Source, event, lanes_of, unique, until, within,
};
use onewrite_testkit::{history::Verdict, server::Redis};
use redis::{FromRedisValue, aio::MultiplexedConnection};
use tempfile::TempDir;

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

/// How to read a stream without losing time.
pub(crate) fn reading(url: &str, store: Arc<dyn Store>, owner: &str) -> RedisFeedOptions {
    let options = RedisFeedOptions::from_url(url, "payments", store, owner.to_owned()).unwrap();
    RedisFeedOptions {
        lease_ttl: Duration::from_millis(600),
        ack_wait: Duration::from_millis(500),
        backoff: Backoff { initial: Duration::from_millis(2), cap: Duration::from_millis(100) },
        ..options
    }
}

/// A server, a source, a consumer, and the name of the stream between them.
pub(crate) struct Shop {
    pub(crate) server: Redis,
    pub(crate) source: Source,
    pub(crate) consumer: Consumer,
    pub(crate) stream: String,
    folder: TempDir,
}

impl Shop {
    pub(crate) async fn new() -> Self {
        Self::on(server_with(&[]).await).await
    }

    pub(crate) async fn on(server: Redis) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            server,
            source: Source::open(folder.path()),
            consumer: Consumer::open(folder.path()).await,
            stream: unique("orders"),
            folder,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        address(&self.server)
    }

    /// Where the databases are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn url(&self) -> String {
        url(self.address(), &self.stream)
    }

    pub(crate) async fn feed(&self) -> RedisFeed {
        self.feed_at(&self.url()).await
    }

    pub(crate) async fn feed_at(&self, url: &str) -> RedisFeed {
        RedisFeed::open(reading(url, self.consumer.store(), &unique("feed"))).await.unwrap()
    }

    /// Entries in all lanes.
    pub(crate) async fn stored(&self) -> u64 {
        stored(&self.server, &self.stream).await
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

pub(crate) fn assert_clean(verdict: &Verdict) {
    assert!(verdict.is_clean(), "{verdict}");
}

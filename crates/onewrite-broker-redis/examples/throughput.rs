//! How fast the sink publishes and the feed reads, beside the plain client that appends the same fields in
//! pipelines of the same size: `cargo run --release -p onewrite-broker-redis --example throughput
//! [EVENTS]`. Starts a `redis-server` of its own, once with each way to sync its file.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement fails by panicking")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use onewrite_broker_redis::{Reading, RedisFeed, RedisFeedOptions, RedisSink, RedisSinkOptions};
use onewrite_core::{
    Delivery, Event, Incarnation, Record, Timestamp,
    broker::{Feed, Receipt, Sink},
    cloudevents,
    record::Order,
};
use onewrite_store_sqlite::{Options, SqliteStore};
use onewrite_testkit::server::Redis;

const WINDOW: usize = 1_000;
const PARTITIONS: u16 = 256;
const DATA_BYTES: usize = 200;

#[tokio::main]
async fn main() {
    let count: usize = std::env::args().nth(1).map_or(200_000, |count| count.parse().unwrap());
    println!("{count} events of {DATA_BYTES} bytes, window and batch {WINDOW}");
    for fsync in ["always", "everysec"] {
        let server = Redis::start_with(&["--appendfsync", fsync]).await.unwrap();
        println!("appendfsync {fsync}");
        for _ in 0..3 {
            let deliveries = deliveries(count);
            report("client, XADD in a pipeline", count, plain(&server, &deliveries).await);
            report("sink", count, sink(&server, &deliveries).await);
            report("feed, nothing done with it", count, feed(&server, count).await);
            let client = redis::Client::open(server.url()).unwrap();
            let mut line = client.get_multiplexed_async_connection().await.unwrap();
            redis::cmd("FLUSHALL").exec_async(&mut line).await.unwrap();
        }
    }
}

fn report(what: &str, count: usize, took: Duration) {
    println!("  {what:28} {:>9.0} events/s", count as f64 / took.as_secs_f64());
}

fn deliveries(count: usize) -> Vec<Delivery> {
    let mut last = vec![0; usize::from(PARTITIONS)];
    (0..count)
        .map(|n| {
            let partition = n % usize::from(PARTITIONS);
            let sequence = n as u64 + 1;
            let previous = std::mem::replace(&mut last[partition], sequence);
            let mut event = Event::new("OrderCreated", "Order", format!("order-{partition}"));
            event.id = Some(format!("0198c1f2-7a3b-7cc0-9d5e-{n:012x}").into());
            event.key = Some(format!("order-{partition}").into());
            event.time = Some(Timestamp(1_700_000_000_000_000 + n as i64));
            event.data = vec![b'7'; DATA_BYTES].into();
            let record = Record {
                source: "shop".into(),
                incarnation: Incarnation(0x00c0_ffee),
                partition: u16::try_from(partition).unwrap(),
                sequence,
                event,
            };
            Delivery { record, order: Order::Chained { previous } }
        })
        .collect()
}

async fn plain(server: &Redis, deliveries: &[Delivery]) -> Duration {
    let client = redis::Client::open(server.url()).unwrap();
    let config =
        redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(60)));
    let mut line = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
    let began = Instant::now();
    for batch in deliveries.chunks(WINDOW) {
        let mut adds = redis::Pipeline::with_capacity(batch.len());
        for delivery in batch {
            let add = adds.cmd("XADD").arg(format!("plain:{}", delivery.record.partition % 8));
            add.arg("*");
            for (name, value) in cloudevents::encode_attributes(delivery) {
                adds.arg(name).arg(value);
            }
            adds.arg("data").arg(&delivery.record.event.data[..]);
        }
        let ids: Vec<String> = adds.query_async(&mut line).await.unwrap();
        assert_eq!(ids.len(), batch.len());
    }
    began.elapsed()
}

fn url(server: &Redis) -> String {
    format!("{}/orders?window={WINDOW}&timeout=60", server.url())
}

async fn sink(server: &Redis, deliveries: &[Delivery]) -> Duration {
    let sink = RedisSink::connect(RedisSinkOptions::from_url(&url(server)).unwrap()).await.unwrap();
    let began = Instant::now();
    for batch in deliveries.chunks(WINDOW) {
        let receipts = sink.publish(batch).await.unwrap();
        assert!(receipts.iter().all(Receipt::is_settled));
    }
    began.elapsed()
}

/// Reads what the sink has published, in 8 lanes.
async fn feed(server: &Redis, count: usize) -> Duration {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(Options::new(folder.path().join("feed.db"))).unwrap();
    let options =
        RedisFeedOptions::from_url(&url(server), Reading::new("bench", Arc::new(store), "bench"))
            .unwrap();
    let mut feed = RedisFeed::open(options).await.unwrap();
    let mut seen = 0;
    let began = Instant::now();
    while seen < count {
        let mut arrival = feed.next().await.unwrap();
        let receipts = vec![Receipt::Accepted; arrival.take().len()];
        seen += receipts.len();
        arrival.settle(receipts).await.unwrap();
    }
    let took = began.elapsed();
    feed.closer().close().await;
    took
}

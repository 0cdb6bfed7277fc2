//! How fast the sink publishes and the feed reads, beside what the plain client does: `cargo run
//! --release -p onewrite-broker-nats --example throughput [EVENTS [sink]]`. Starts a `nats-server` of its
//! own, which stores on disk.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement fails by panicking")]

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, jetstream};
use onewrite_broker_nats::{NatsFeed, NatsFeedOptions, NatsSink, NatsSinkOptions, Reading};
use onewrite_core::{
    Delivery, Event, Incarnation, Record, Timestamp,
    broker::{Feed, Receipt, Sink},
    record::Order,
};
use onewrite_store_sqlite::{Options, SqliteStore};

const WINDOW: usize = 1_000;
const PARTITIONS: u16 = 256;
const DATA_BYTES: usize = 200;

#[tokio::main]
async fn main() {
    let count: usize = std::env::args().nth(1).map_or(300_000, |count| count.parse().unwrap());
    let (address, server, _data) = serve().await;
    let pid = server.id().unwrap();
    println!("{count} events of {DATA_BYTES} bytes, window and batch {WINDOW}");
    let only_sink = std::env::args().nth(2).is_some_and(|what| what == "sink");
    for _ in 0..3 {
        if only_sink {
            report("sink", count, &sink(address, count, pid).await);
            continue;
        }
        let plain = raw(address, "plain", count, &HeaderMap::new(), pid).await;
        report("client, no headers", count, &plain);
        let headers = headers();
        let with_headers = raw(address, "headers", count, &headers, pid).await;
        report(&format!("client, the same {} headers", headers.len()), count, &with_headers);
        let sink = sink(address, count, pid).await;
        report("sink", count, &sink);
        let feed = feed(address, count, pid).await;
        report("feed, nothing done with it", count, &feed);
    }
}

/// Time, and the processor time of this process and of the server.
struct Took {
    wall: Duration,
    cpu: [Duration; 2],
}

/// Measures from when it is made.
struct Clock {
    began: Instant,
    cpu: [Duration; 2],
    server: u32,
}

impl Clock {
    fn start(server: u32) -> Self {
        Self { began: Instant::now(), cpu: [cpu(std::process::id()), cpu(server)], server }
    }

    fn stop(&self) -> Took {
        let now = [cpu(std::process::id()), cpu(self.server)];
        Took { wall: self.began.elapsed(), cpu: [now[0] - self.cpu[0], now[1] - self.cpu[1]] }
    }
}

/// The processor time a process has used, in steps of 10 ms.
fn cpu(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|at| fields[*at].parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

fn report(what: &str, count: usize, took: &Took) {
    let each = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
    let [own, server] = took.cpu.map(each);
    println!(
        "{what:34} {:>9.0} events/s, processor time for each: {own:.1} us here, {server:.1} us in the server",
        count as f64 / took.wall.as_secs_f64()
    );
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
            event.correlation_id = Some(format!("order-{partition}").into());
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

fn headers() -> HeaderMap {
    let one = deliveries(1).remove(0);
    let binary = onewrite_core::cloudevents::encode_binary(&one);
    let mut headers = HeaderMap::new();
    for (name, value) in binary.headers {
        headers.insert(name, value);
    }
    headers
}

async fn sink(address: SocketAddr, count: usize, server: u32) -> Took {
    let url = format!("nats://{address}/sink?window={WINDOW}");
    let sink = NatsSink::connect(NatsSinkOptions::from_url(&url).unwrap()).await.unwrap();
    let deliveries = deliveries(count);
    let clock = Clock::start(server);
    for batch in deliveries.chunks(WINDOW) {
        let receipts = sink.publish(batch).await.unwrap();
        assert!(receipts.iter().all(Receipt::is_settled));
    }
    let took = clock.stop();
    forget(address, "sink").await;
    took
}

async fn raw(
    address: SocketAddr,
    stream: &str,
    count: usize,
    headers: &HeaderMap,
    server: u32,
) -> Took {
    let client = async_nats::connect(address.to_string()).await.unwrap();
    let context = jetstream::context::ContextBuilder::new()
        .max_ack_inflight(2 * WINDOW)
        .backpressure_on_inflight(true)
        .build(client);
    let config = jetstream::stream::Config {
        name: stream.into(),
        subjects: vec![format!("{stream}.>")],
        ..Default::default()
    };
    context.create_stream(config).await.unwrap();
    let payload = bytes::Bytes::from(vec![b'7'; DATA_BYTES]);
    let clock = Clock::start(server);
    let mut waiting = VecDeque::with_capacity(WINDOW);
    for n in 0..count {
        if waiting.len() == WINDOW {
            let ack: jetstream::context::PublishAckFuture = waiting.pop_front().unwrap();
            ack.await.unwrap();
        }
        let subject = format!("{stream}.{}.{}", n % 8, n % usize::from(PARTITIONS));
        let sent = if headers.is_empty() {
            context.publish(subject, payload.clone()).await
        } else {
            context.publish_with_headers(subject, headers.clone(), payload.clone()).await
        };
        waiting.push_back(sent.unwrap());
    }
    for ack in waiting {
        ack.await.unwrap();
    }
    let took = clock.stop();
    forget(address, stream).await;
    took
}

/// Reads what the sink has published, in 8 lanes.
async fn feed(address: SocketAddr, count: usize, server: u32) -> Took {
    let url = format!("nats://{address}/feed?window={WINDOW}");
    let sink = NatsSink::connect(NatsSinkOptions::from_url(&url).unwrap()).await.unwrap();
    for batch in deliveries(count).chunks(WINDOW) {
        sink.publish(batch).await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(Options::new(folder.path().join("feed.db"))).unwrap();
    let options =
        NatsFeedOptions::from_url(&url, Reading::new("bench", Arc::new(store), "bench")).unwrap();
    let mut feed = NatsFeed::open(options).await.unwrap();
    let (mut seen, mut arrivals) = (0, 0);
    let clock = Clock::start(server);
    while seen < count {
        let mut arrival = feed.next().await.unwrap();
        let receipts = vec![Receipt::Accepted; arrival.take().len()];
        seen += receipts.len();
        arrivals += 1;
        arrival.settle(receipts).await.unwrap();
    }
    let took = clock.stop();
    println!("{} events for each arrival", seen / arrivals);
    feed.closer().close().await;
    forget(address, "feed").await;
    took
}

async fn forget(address: SocketAddr, stream: &str) {
    let client = async_nats::connect(address.to_string()).await.unwrap();
    jetstream::new(client).delete_stream(stream).await.unwrap();
}

async fn serve() -> (SocketAddr, tokio::process::Child, tempfile::TempDir) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let data = tempfile::tempdir().unwrap();
    let server = tokio::process::Command::new("nats-server")
        .args(["-a", "127.0.0.1", "-p", &address.port().to_string(), "-js", "-sd"])
        .arg(data.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("nats-server is installed");
    while tokio::net::TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (address, server, data)
}

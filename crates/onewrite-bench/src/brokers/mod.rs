//! Publishing to brokers that keep a stream, and reading from them: what the sink and the feed do beside
//! what each broker's own client does in the same run, with the same events, on a private server.

mod kafka;
mod nats;
mod rabbitmq;
mod redis;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use onewrite::{
    Delivery, Event, Record, Timestamp, broker::Receipt, position::Incarnation, record::Order,
    sqlite, stream,
};
use onewrite_testkit::server::{Kafka, KafkaAddress, Nats, Rabbitmq, Redis, Tansu};

use crate::{
    load,
    machine::Machine,
    report::{Report, median},
};

/// Events that are sent before an answer is waited for: as many as a relay hands over at once.
const WINDOW: usize = 1_000;

/// Lanes of each stream.
const LANES: u16 = 8;

const PARTITIONS: u16 = 256;

/// Rounds, of which the first warms up. Client, sink and feed take turns in each.
const ROUNDS: usize = 6;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print one JSON object on the last line.
    #[arg(long)]
    json: bool,
    /// Run only with this broker; may be given several times.
    #[arg(long, value_enum)]
    only: Vec<Broker>,
    /// Events in each round.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1_000..=1_000_000))]
    events: u64,
}

/// A broker by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Broker {
    /// NATS JetStream, on disk.
    Nats,
    /// RabbitMQ, quorum queues.
    Rabbitmq,
    /// Redis Streams, each answer synced.
    Redis,
    /// Kafka: librdkafka's mock, in memory, which shows what the client's side costs.
    Kafka,
    /// Tansu, a server of Kafka's protocol, in memory. It has to be installed.
    Tansu,
}

/// A running server.
enum Server {
    Nats(Nats),
    Rabbitmq(Rabbitmq),
    Redis(Redis),
    Kafka(Kafka),
    Tansu(Tansu),
}

impl Server {
    async fn start(broker: Broker) -> Result<Self> {
        Ok(match broker {
            Broker::Nats => Self::Nats(Nats::start().await.context("start NATS")?),
            Broker::Rabbitmq => Self::Rabbitmq(Rabbitmq::start().await.context("start RabbitMQ")?),
            Broker::Redis => Self::Redis(Redis::start().await.context("start Redis")?),
            Broker::Kafka => Self::Kafka(Kafka::start().await.context("start Kafka's mock")?),
            Broker::Tansu => Self::Tansu(Tansu::start().await.context("start Tansu")?),
        })
    }

    /// A new stream.
    async fn stream(&self, name: &str) -> Result<String> {
        let options = format!("{name}?window={WINDOW}&lanes={LANES}&timeout=60");
        Ok(match self {
            Self::Nats(server) => format!("{}/{options}", server.url()),
            Self::Rabbitmq(server) => format!("{}/{options}&consumers=bench", server.url()),
            Self::Redis(server) => format!("{}/{options}", server.url()),
            Self::Kafka(_) | Self::Tansu(_) => {
                let address = self.kafka().context("a server of Kafka's protocol")?;
                address.create_topic(name, LANES).await?;
                address.create_topic(&onewrite::kafka::gap_topic(name), 1).await?;
                format!("{}/{options}", address.url())
            }
        })
    }

    fn kafka(&self) -> Option<&KafkaAddress> {
        match self {
            Self::Kafka(server) => Some(server.address()),
            Self::Tansu(server) => Some(server.address()),
            _ => None,
        }
    }

    /// Removes a stream. What is kept in memory ends with its server, which may not know how to.
    async fn remove(&self, url: &str) -> Result<()> {
        match self.kafka() {
            Some(_) => Ok(()),
            None => Ok(stream::remove(url, &["bench"]).await?),
        }
    }

    /// What the broker's own client needs for the same.
    async fn client(&self, deliveries: &[Delivery], round: usize) -> Result<Duration> {
        match self {
            Self::Nats(server) => nats::publish(server, deliveries, round).await,
            Self::Rabbitmq(server) => rabbitmq::publish(server, deliveries, round).await,
            Self::Redis(server) => redis::publish(server, deliveries, round).await,
            Self::Kafka(server) => kafka::publish(server.address(), deliveries, round).await,
            Self::Tansu(server) => kafka::publish(server.address(), deliveries, round).await,
        }
    }
}

/// Measures on servers of its own.
///
/// # Errors
/// When a server cannot be started, or what it says.
pub(crate) async fn run(options: Options) -> Result<()> {
    let folder = crate::folder()?;
    let mut report = Report::new("brokers", Machine::look(folder.path()).await?);
    let deliveries = deliveries(options.events);
    for broker in Broker::value_variants() {
        let by_default = options.only.is_empty() && *broker != Broker::Tansu;
        if by_default || options.only.contains(broker) {
            measure(*broker, &deliveries, folder.path(), &mut report).await?;
        }
    }
    report.print(options.json);
    Ok(())
}

async fn measure(
    broker: Broker,
    deliveries: &[Delivery],
    folder: &Path,
    report: &mut Report,
) -> Result<()> {
    let name = format!("{broker:?}").to_lowercase();
    let server = Server::start(broker).await?;
    eprintln!("{name}: {} events of {} bytes", deliveries.len(), load::PAYLOAD_BYTES);
    let store = sqlite::SqliteStore::open(sqlite::Options::new(folder.join(format!("{name}.db"))))?;
    let rate = |took: Duration| deliveries.len() as f64 / took.as_secs_f64();
    let (mut client, mut sink, mut feed, mut ratios) = (vec![], vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        let plain = rate(server.client(deliveries, round).await?);
        let url = server.stream(&format!("bench{round}")).await?;
        let ours = rate(publish(&url, deliveries).await?);
        let read = rate(receive(&url, &store, deliveries.len()).await?);
        server.remove(&url).await?;
        if round > 0 {
            client.push(plain);
            sink.push(ours);
            feed.push(read);
            ratios.push(ours / plain);
        }
    }
    report.set("brokers", format!("{name}_client_per_s"), median(client));
    report.set("brokers", format!("{name}_sink_per_s"), median(sink));
    report.set("brokers", format!("{name}_ratio"), median(ratios));
    report.set("brokers", format!("{name}_feed_per_s"), median(feed));
    Ok(())
}

async fn publish(url: &str, deliveries: &[Delivery]) -> Result<Duration> {
    let sink = stream::sink(url).await?;
    let began = Instant::now();
    for batch in deliveries.chunks(WINDOW) {
        let receipts = sink.publish(batch).await?;
        ensure!(receipts.iter().all(Receipt::is_settled), "not everything was settled");
    }
    Ok(began.elapsed())
}

/// Reads everything, and does nothing with it.
async fn receive(url: &str, store: &sqlite::SqliteStore, count: usize) -> Result<Duration> {
    let reading = stream::Reading::new("bench", Arc::new(store.clone()), "bench");
    let (mut feed, closer) = stream::feed(url, reading).await?;
    let began = Instant::now();
    let mut seen = 0;
    while seen < count {
        let mut arrival = feed.next().await.context("the feed has ended")?;
        let receipts = vec![Receipt::Accepted; arrival.take().len()];
        seen += receipts.len();
        arrival.settle(receipts).await?;
    }
    let took = began.elapsed();
    drop(feed);
    closer.close().await;
    Ok(took)
}

/// What a relay would deliver.
fn deliveries(count: u64) -> Vec<Delivery> {
    let mut last = [0; PARTITIONS as usize];
    let payload = load::payload();
    (1..=count)
        .map(|sequence| {
            let partition = (sequence % u64::from(PARTITIONS)) as u16;
            let previous = std::mem::replace(&mut last[usize::from(partition)], sequence);
            let event = Event {
                id: Some(format!("0198c1f2-7a3b-7cc0-9d5e-{sequence:012x}").into()),
                time: Some(Timestamp(1_700_000_000_000_000 + sequence as i64)),
                ..load::event(sequence, &payload)
            };
            let record = Record {
                source: "shop".into(),
                incarnation: Incarnation(0x00c0_ffee),
                partition,
                sequence,
                event,
            };
            Delivery { record, order: Order::Chained { previous } }
        })
        .collect()
}

//! The relay over a backlog on PostgreSQL.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::Result;
use onewrite::{
    BoxFuture, Delivery, Shutdown, Store, broker,
    broker::Receipt,
    nats::{NatsSink, NatsSinkOptions},
    store::{Batch, Durability, Item, Op, Outcome},
};
use onewrite_testkit::server::{Nats, Postgres};

use super::store;
use crate::{drain, load, report::Report};

const CHUNK: u64 = 1_000;

/// Drains `backlog` events into each kind of sink.
///
/// # Errors
/// What the server says, or when a drain does not end.
pub(crate) async fn run(
    server: &Postgres,
    nats: &Nats,
    backlog: u64,
    report: &mut Report,
) -> Result<()> {
    eprintln!("drain: {backlog} events");
    let store = store(server, "drain").await?;
    fill(&store, backlog).await?;
    drain::null(&store, "warm", backlog).await?;
    report.set("drain", "null_per_s", drain::null(&store, "null", backlog).await?);
    report.set("drain", "http_per_s", drain::http(&store, backlog).await?);
    let raw = raw_publish(nats, backlog).await?;
    report.set("drain", "raw_nats_per_s", raw);
    let rate = jetstream(&store, nats, backlog).await?;
    report.set("drain", "nats_per_s", rate);
    report.set("drain", "nats_ratio", rate / raw);
    Ok(())
}

/// The relay into JetStream, file storage, each publish confirmed.
pub(crate) async fn jetstream<S: Store + Clone + 'static>(
    store: &S,
    nats: &Nats,
    backlog: u64,
) -> Result<f64> {
    let url = format!("{}/bench", nats.url());
    let sink = Arc::new(Counted {
        sink: NatsSink::connect(NatsSinkOptions::from_url(&url)?).await?,
        settled: AtomicU64::new(0),
    });
    let relay = drain::shared_relay(store, Arc::clone(&sink) as Arc<dyn broker::Sink>, "nats");
    let count = || sink.settled.load(Ordering::Relaxed);
    drain::timed(store, "nats", relay, backlog, count, &Shutdown::default()).await
}

struct Counted {
    sink: NatsSink,
    settled: AtomicU64,
}

impl broker::Sink for Counted {
    fn publish<'a>(
        &'a self,
        batch: &'a [Delivery],
    ) -> BoxFuture<'a, onewrite::Result<Vec<Receipt>>> {
        Box::pin(async move {
            let receipts = self.sink.publish(batch).await?;
            let settled = receipts.iter().filter(|receipt| receipt.is_settled()).count();
            self.settled.fetch_add(settled as u64, Ordering::Relaxed);
            Ok(receipts)
        })
    }
}

/// What the client itself does with the same payload: confirmed publishes, a thousand in flight.
pub(crate) async fn raw_publish(nats: &Nats, count: u64) -> Result<f64> {
    const WINDOW: usize = 1_000;
    let client = async_nats::connect(nats.url()).await?;
    let jetstream = async_nats::jetstream::new(client);
    let config = async_nats::jetstream::stream::Config {
        name: "raw".into(),
        subjects: vec!["raw.>".into()],
        ..Default::default()
    };
    jetstream.create_stream(config).await?;
    let payload = bytes::Bytes::from(load::payload().to_vec());
    let mut acks = VecDeque::new();
    let began = Instant::now();
    for number in 0..count {
        if acks.len() >= WINDOW
            && let Some(ack) = acks.pop_front()
        {
            IntoFuture::into_future(ack).await?;
        }
        let subject = format!("raw.{}", number % 256);
        acks.push_back(jetstream.publish(subject, payload.clone()).await?);
    }
    for ack in acks {
        IntoFuture::into_future(ack).await?;
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// Fills a log through the store's own door.
pub(crate) async fn fill(store: &impl Store, count: u64) -> Result<()> {
    let (began, payload) = (Instant::now(), load::payload());
    for first in (0..count).step_by(usize::try_from(CHUNK)?) {
        let ops = (first..count.min(first + CHUNK))
            .map(|number| Op::Emit(load::event(number, &payload).into()))
            .collect();
        let items = vec![Item { fence: None, ops }];
        for outcome in store.commit(Batch { durability: Durability::Durable, items }).await? {
            if let Outcome::Failed(error) = outcome {
                return Err(error.into());
            }
        }
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    eprintln!("{count} events emitted by thousands, {rate:.0}/s");
    Ok(())
}

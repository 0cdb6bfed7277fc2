//! From commit to handler on PostgreSQL, over HTTP and over JetStream; the receiver has a database of its
//! own on the same server.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use onewrite::{
    Shutdown, StartFrom,
    nats::{NatsFeed, NatsFeedOptions, NatsSink, NatsSinkOptions, Reading},
    postgres::{Context, InboxOptions, PostgresInbox, PostgresStore, emit},
};
use onewrite_testkit::server::{Nats, Postgres};
use tokio::task::JoinSet;

use super::store;
use crate::{
    drain,
    latency::{Times, WARM_UP, evaluate, subscribe},
    load,
    report::Report,
};

/// Measures 500 and 2,000 events a second over each broker.
///
/// # Errors
/// What the servers say, or when events do not arrive.
pub(crate) async fn run(
    server: &Postgres,
    nats: &Nats,
    time: Duration,
    report: &mut Report,
) -> Result<()> {
    for (broker, rate) in [("http", 500_u32), ("nats", 500), ("http", 2_000), ("nats", 2_000)] {
        eprintln!("latency: {rate} events a second over {broker}");
        let name = format!("latency_{broker}_{rate}");
        let source = store(server, &name).await?;
        let sink = store(server, &format!("{name}_inbox")).await?;
        subscribe(&source, "latency", StartFrom::Now).await?;
        let count = ((time + WARM_UP).as_secs_f64() * f64::from(rate)) as u64;
        let times = Arc::new(Times::new(count));
        let (mut tasks, shutdown) = (JoinSet::new(), Shutdown::default());
        let receiver = load::receiver(noting(&sink, Arc::clone(&times))?);
        let relay = if broker == "http" {
            let end = shutdown.clone();
            let url =
                load::serve(&mut tasks, &shutdown, move |feed| receiver.run(Box::new(feed), end))
                    .await?;
            drain::relay(&source, load::http_sink(url)?, "latency")
        } else {
            let url = format!("{}/{name}", nats.url());
            let options = NatsSinkOptions::from_url(&url)?;
            let jetstream = NatsSink::connect(options).await?;
            let inbox = Arc::new(sink.clone());
            let reading = Reading::new("latency", inbox, "bench");
            let feed = NatsFeedOptions::from_url(&url, reading)?;
            let feed = NatsFeed::open(feed).await?;
            tasks.spawn(receiver.run(Box::new(feed), shutdown.clone()));
            drain::relay(&source, jetstream, "latency")
        };
        let relay = tokio::spawn(relay.run(shutdown.clone()));
        place(&source, u64::from(rate), time + WARM_UP, &times).await?;
        times.until_handled().await?;
        shutdown.begin();
        relay.await.context("the relay")?;
        tasks.shutdown().await;
        let measured = evaluate(&times, u64::from(rate))?;
        report.set_latencies("latency", &format!("{broker}_{rate}"), &measured.since_commit);
        report.set_latencies("latency", &format!("{broker}_{rate}_write"), &measured.write);
    }
    Ok(())
}

fn noting(store: &PostgresStore, times: Arc<Times>) -> Result<PostgresInbox> {
    Ok(PostgresInbox::new(store, InboxOptions::new("latency"), move |cx: &mut Context<'_>| {
        let now = Instant::now();
        if let Some(Ok(number)) = cx.event().aggregate_id.strip_prefix("o-").map(str::parse) {
            times.note(&times.handled, number, now);
        }
        Box::pin(async { Ok(()) })
    })?)
}

/// Arrivals that each write one event in a transaction of their own.
async fn place(store: &PostgresStore, rate: u64, time: Duration, times: &Arc<Times>) -> Result<()> {
    let payload = load::payload();
    load::open_loop(rate, time, |number, due| {
        let (store, times, payload) = (store.clone(), Arc::clone(times), payload.clone());
        times.note(&times.due, number, due);
        async move {
            let event = load::event(number, &payload);
            store
                .write(move |tx| Box::pin(async move { emit(tx, &event).await.map(|_| ()) }))
                .await?;
            times.note(&times.committed, number, Instant::now());
            Ok(())
        }
    })
    .await
}

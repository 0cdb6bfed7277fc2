//! The relay over a backlog. One preloaded store serves every sink: each has its own cursors.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use onewrite::{
    NullSink, Relay, RelayOptions, Shutdown, Store, broker,
    broker::{Feed, Receipt},
    sqlite::{InboxOptions, SqliteInbox, SqliteStore},
};
use tokio::task::JoinSet;

use crate::{load, report::Report};

/// The longest a drain may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Drains `backlog` events into each kind of sink.
///
/// # Errors
/// What the stores say, or when a drain does not end.
pub(crate) async fn run(folder: &Path, backlog: u64, report: &mut Report) -> Result<()> {
    eprintln!("drain: {backlog} events");
    let store = load::open(&folder.join("drain.db")).await?;
    load::preload(&store, backlog).await?;
    // What is read first is not measured first.
    null(&store, "warm", backlog).await?;
    report.set("drain", "null_per_s", null(&store, "null", backlog).await?);
    report.set("drain", "memory_per_s", memory(&store, backlog).await?);
    let inbox = folder.join("memory-inbox.db");
    report.set("drain", "memory_inbox_per_s", memory_inbox(&store, backlog, &inbox).await?);
    report.set("drain", "http_per_s", http(&store, backlog).await?);
    let inbox = folder.join("http-inbox.db");
    report.set("drain", "http_inbox_per_s", http_inbox(&store, backlog, &inbox).await?);
    Ok(())
}

/// A relay from `store` to `sink`, named `name`.
pub(crate) fn relay<S: Store + Clone + 'static>(
    store: &S,
    sink: impl broker::Sink + 'static,
    name: &str,
) -> Relay {
    shared_relay(store, Arc::new(sink), name)
}

pub(crate) fn shared_relay<S: Store + Clone + 'static>(
    store: &S,
    sink: Arc<dyn broker::Sink>,
    name: &str,
) -> Relay {
    Relay::new(Arc::new(store.clone()), sink, RelayOptions::new(name.to_owned()), "bench")
}

/// Runs `relay` until `count` says that all of `backlog` arrived; returns events a second.
pub(crate) async fn timed(
    store: &impl Store,
    name: &str,
    relay: Relay,
    backlog: u64,
    count: impl Fn() -> u64,
    shutdown: &Shutdown,
) -> Result<f64> {
    let began = Instant::now();
    let running = tokio::spawn(relay.run(shutdown.clone()));
    while count() < backlog {
        if began.elapsed() > PATIENCE {
            bail!("only {} of {backlog} events reached the sink `{name}`", count());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let rate = backlog as f64 / began.elapsed().as_secs_f64();
    shutdown.begin();
    running.await.context("the relay")?;
    let sinks = store.sinks().await?;
    let behind = sinks.iter().find(|sink| sink.name == name).map(|sink| sink.behind);
    if behind != Some(0) {
        bail!("the cursors of the sink `{name}` are behind what it accepted: {behind:?}");
    }
    Ok(rate)
}

pub(crate) async fn null<S: Store + Clone + 'static>(
    store: &S,
    name: &str,
    backlog: u64,
) -> Result<f64> {
    let sink = Arc::new(NullSink::default());
    let relay = shared_relay(store, Arc::clone(&sink) as Arc<dyn broker::Sink>, name);
    timed(store, name, relay, backlog, || sink.deliveries(), &Shutdown::default()).await
}

async fn memory(store: &SqliteStore, backlog: u64) -> Result<f64> {
    let (sink, feed) = onewrite::memory("bench-memory");
    let seen = Arc::new(AtomicU64::new(0));
    let consumer = tokio::spawn(accept(feed, Arc::clone(&seen)));
    let relay = relay(store, sink, "memory");
    let count = || seen.load(Ordering::Relaxed);
    let rate = timed(store, "memory", relay, backlog, count, &Shutdown::default()).await;
    consumer.abort();
    rate
}

async fn memory_inbox(store: &SqliteStore, backlog: u64, path: &Path) -> Result<f64> {
    let (sink, feed) = onewrite::memory("bench-memory-inbox");
    let (inbox, seen) = counting_inbox(path, "memory-inbox")?;
    let shutdown = Shutdown::default();
    let receiver = load::receiver(inbox).run(Box::new(feed), shutdown.clone());
    let receiver = tokio::spawn(receiver);
    let relay = relay(store, sink, "memory-inbox");
    let count = || seen.load(Ordering::Relaxed);
    let rate = timed(store, "memory-inbox", relay, backlog, count, &shutdown).await;
    receiver.await.context("the receiver")?;
    rate
}

pub(crate) async fn http<S: Store + Clone + 'static>(store: &S, backlog: u64) -> Result<f64> {
    let (mut tasks, shutdown) = (JoinSet::new(), Shutdown::default());
    let seen = Arc::new(AtomicU64::new(0));
    let consumed = Arc::clone(&seen);
    let url = load::serve(&mut tasks, &shutdown, |feed| accept(feed, consumed)).await?;
    let relay = relay(store, load::http_sink(url)?, "http");
    let count = || seen.load(Ordering::Relaxed);
    let rate = timed(store, "http", relay, backlog, count, &shutdown).await;
    tasks.shutdown().await;
    rate
}

async fn http_inbox(store: &SqliteStore, backlog: u64, path: &Path) -> Result<f64> {
    let (mut tasks, shutdown) = (JoinSet::new(), Shutdown::default());
    let (inbox, seen) = counting_inbox(path, "http-inbox")?;
    let end = shutdown.clone();
    let url = load::serve(&mut tasks, &shutdown, move |feed| {
        load::receiver(inbox).run(Box::new(feed), end)
    })
    .await?;
    let relay = relay(store, load::http_sink(url)?, "http-inbox");
    let count = || seen.load(Ordering::Relaxed);
    let rate = timed(store, "http-inbox", relay, backlog, count, &shutdown).await;
    tasks.shutdown().await;
    rate
}

/// An inbox whose handler does nothing but count.
pub(crate) fn counting_inbox(path: &Path, consumer: &str) -> Result<(SqliteInbox, Arc<AtomicU64>)> {
    let store = SqliteStore::open(onewrite::sqlite::Options::new(path))?;
    let seen = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&seen);
    let inbox = SqliteInbox::new(&store, InboxOptions::new(consumer.to_owned()), move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    })?;
    Ok((inbox, seen))
}

/// Settles everything that arrives.
async fn accept(mut feed: impl Feed, seen: Arc<AtomicU64>) {
    while let Some(mut arrival) = feed.next().await {
        let count = arrival.take().len();
        if arrival.settle(vec![Receipt::Accepted; count]).await.is_ok() {
            seen.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
}

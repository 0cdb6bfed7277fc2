//! What the measurements share: the event, the backlog, open-loop arrivals, and latencies.

use std::{
    future::Future,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use onewrite::{Bytes, Event, Receiver, ReceiverOptions, Shutdown, http, other, sqlite};
use rusqlite::Connection;
use tokio::task::JoinSet;

/// The bytes of an event's data.
pub(crate) const PAYLOAD_BYTES: usize = 300;

/// Distinct keys.
pub(crate) const KEYS: u64 = 10_000;

/// The user's own table.
pub(crate) const ORDERS: &str = "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT NOT NULL, cents INTEGER NOT NULL, note TEXT NOT NULL)";

const CHUNK: u64 = 1_000;

/// A JSON object of [`PAYLOAD_BYTES`] bytes.
#[must_use]
pub(crate) fn payload() -> Bytes {
    let head = r#"{"order":"o-1000000","customer":"c-4711","cents":4200,"currency":"EUR","note":""#;
    let filler = "x".repeat(PAYLOAD_BYTES.saturating_sub(head.len() + 2));
    Bytes::from(format!("{head}{filler}\"}}"))
}

/// The event of order `number`, one of [`KEYS`] keys.
#[must_use]
pub(crate) fn event(number: u64, payload: &Bytes) -> Event {
    Event::new("OrderPlaced", "Order", format!("o-{number}"))
        .key(format!("c-{}", number % KEYS))
        .bytes("application/json", payload.clone())
}

/// Inserts the user's row.
///
/// # Errors
/// What the database says.
pub(crate) fn insert_order(tx: &Connection, number: u64) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT INTO orders (customer, cents, note) VALUES (?1, ?2, ?3)")?
        .execute((format!("c-{}", number % KEYS), 4200, "to be delivered before noon"))
        .map(|_| ())
}

/// Opens a store with the user's table.
///
/// # Errors
/// What the store says.
pub(crate) async fn open(path: &Path) -> Result<sqlite::SqliteStore> {
    let store = sqlite::SqliteStore::open(sqlite::Options::new(path))?;
    store.write(|tx| tx.execute_batch(ORDERS).map_err(other)).await?;
    Ok(store)
}

/// Opens a store that [`open`] made.
///
/// # Errors
/// What the store says.
pub(crate) fn open_again(path: &Path) -> Result<sqlite::SqliteStore> {
    Ok(sqlite::SqliteStore::open(sqlite::Options::new(path))?)
}

/// Fills the log with `count` events.
///
/// # Errors
/// What the store says.
pub(crate) async fn preload(store: &sqlite::SqliteStore, count: u64) -> Result<()> {
    let began = Instant::now();
    let payload = payload();
    for first in (0..count).step_by(usize::try_from(CHUNK)?) {
        let payload = payload.clone();
        store
            .write(move |tx| {
                for number in first..count.min(first + CHUNK) {
                    sqlite::emit(tx, &event(number, &payload))?;
                }
                Ok(())
            })
            .await?;
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    eprintln!("{count} events emitted by thousands, {rate:.0}/s");
    Ok(())
}

/// Starts a receiver over HTTP on loopback that hands its feed to `receive`; returns its URL.
///
/// # Errors
/// When no port can be listened on.
pub(crate) async fn serve<F: Future<Output = ()> + Send + 'static>(
    tasks: &mut JoinSet<()>,
    shutdown: &Shutdown,
    receive: impl FnOnce(http::HttpFeed) -> F,
) -> Result<String> {
    let (router, feed) = http::receiver(http::HttpFeedOptions::default());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}/events", listener.local_addr()?);
    tasks.spawn(receive(feed));
    let (api, end) = (axum::Router::new().nest("/events", router), shutdown.clone());
    tasks.spawn(async move {
        let served = axum::serve(listener, api);
        if let Err(error) = served.with_graceful_shutdown(async move { end.begun().await }).await {
            eprintln!("the receiver ended: {error}");
        }
    });
    Ok(url)
}

/// A sink that posts batches to `url` on this machine.
///
/// # Errors
/// When the URL is not valid.
pub(crate) fn http_sink(url: String) -> Result<http::HttpSink> {
    let options = http::HttpSinkOptions { allow_private: true, ..http::HttpSinkOptions::new(url) };
    Ok(http::HttpSink::new(options)?)
}

/// A receiver for `inbox` with the defaults.
#[must_use]
pub(crate) fn receiver(inbox: impl onewrite::inbox::Inbox + 'static) -> Receiver {
    Receiver::new(Arc::new(inbox), ReceiverOptions::default())
}

/// Calls `arrive` with each number at its time, `rate` of them a second for `time`: when the system
/// under test is late, the arrivals are not. Blocks its thread.
pub(crate) fn arrivals(rate: u64, time: Duration, mut arrive: impl FnMut(u64, Instant)) {
    let began = Instant::now();
    let gap = Duration::from_secs(1).as_secs_f64() / rate as f64;
    for number in 0..(time.as_secs_f64() * rate as f64) as u64 {
        let due = began + Duration::from_secs_f64(gap * number as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        arrive(number, due);
    }
}

/// Starts `write` at each of the [`arrivals`], however long those before it take, and waits for all.
///
/// # Errors
/// The first of a write.
pub(crate) async fn open_loop<F>(
    rate: u64,
    time: Duration,
    write: impl Fn(u64, Instant) -> F,
) -> Result<()>
where
    F: Future<Output = onewrite::Result<()>> + Send + 'static,
{
    let (send, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    let clock = std::thread::spawn(move || {
        arrivals(rate, time, |number, due| {
            // Nobody listens any more after a failed write.
            let _ = send.send((number, due));
        });
    });
    let mut writes = JoinSet::new();
    while let Some((number, due)) = arrived.recv().await {
        writes.spawn(write(number, due));
        while let Some(written) = writes.try_join_next() {
            written.context("a write")??;
        }
    }
    while let Some(written) = writes.join_next().await {
        written.context("a write")??;
    }
    clock.join().map_err(|_| anyhow::anyhow!("the arrivals ended early"))
}

/// Writes the user's row and its event through the shared writer.
pub(crate) async fn place(
    store: sqlite::SqliteStore,
    number: u64,
    payload: Bytes,
) -> onewrite::Result<()> {
    store
        .write(move |tx| {
            insert_order(tx, number).map_err(other)?;
            sqlite::emit(tx, &event(number, &payload)).map(|_| ())
        })
        .await
}

/// Latencies from a microsecond to a minute.
#[derive(Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    /// Without any.
    ///
    /// # Errors
    /// Never, with these bounds.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, 60_000_000, 3)?))
    }

    /// Adds one.
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    /// Adds all of another's.
    ///
    /// # Errors
    /// Never: both have the same bounds.
    pub(crate) fn merge(&mut self, other: &Self) -> Result<()> {
        Ok(self.0.add(&other.0)?)
    }

    /// How many there are.
    #[must_use]
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that a share of all does not exceed, in milliseconds.
    #[must_use]
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1e3
    }

    /// The percentiles that are reported, in milliseconds.
    #[must_use]
    pub(crate) fn percentiles(&self) -> [(&'static str, f64); 4] {
        let at = |share| self.quantile_ms(share);
        [
            ("p50", at(0.5)),
            ("p99", at(0.99)),
            ("p999", at(0.999)),
            ("max", self.0.max() as f64 / 1e3),
        ]
    }
}

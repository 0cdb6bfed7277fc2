//! The load: the shop that carries out the steps, the clients that wait for the end, and the figures.
//! The same as in `crates/onewrite-bench/src/serve.rs`.

use std::{
    future::Future,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::Result;
use axum::{Router, routing::post};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use tokio::{net::TcpListener, task::JoinSet};

/// The steps of the saga, in order.
pub(crate) const STEPS: [&str; 4] = ["pay", "reserve", "schedule", "confirm"];

/// What a saga is started with.
#[must_use]
pub(crate) fn input() -> Value {
    json!({"customer": "customer-17", "sku": "book", "quantity": 1, "cents": 1_500})
}

/// Carries out every step at once.
///
/// # Errors
/// When no port can be listened on.
pub(crate) async fn shop() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let routes = Router::new().route("/{step}", post(|| std::future::ready(())));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Ok(address)
}

/// Runs sagas from so many clients, each waiting for the end of its own; tells how many microseconds they took.
///
/// # Errors
/// The first of a saga.
pub(crate) async fn drive<F: Future<Output = Result<()>> + Send>(
    clients: usize,
    time: Duration,
    saga: impl Fn(String) -> F + Clone + Send + 'static,
) -> Result<Histogram<u64>> {
    static KEY: AtomicU64 = AtomicU64::new(0);
    let until = Instant::now() + time;
    let mut work = JoinSet::new();
    for _ in 0..clients {
        let saga = saga.clone();
        work.spawn(async move {
            let mut latencies = Histogram::new_with_bounds(1, 60_000_000, 3)?;
            while Instant::now() < until {
                let key = format!("order-{}", KEY.fetch_add(1, Ordering::Relaxed));
                let began = Instant::now();
                saga(key).await?;
                let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                latencies.saturating_record(micros.max(1));
            }
            anyhow::Ok(latencies)
        });
    }
    let mut all = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    while let Some(done) = work.join_next().await {
        all.add(done??)?;
    }
    Ok(all)
}

/// The figures of one peer, by name; a name ends in its unit.
#[derive(Default)]
pub(crate) struct Figures(Map<String, Value>);

impl Figures {
    /// Adds a figure, and tells it as progress.
    pub(crate) fn set(&mut self, name: String, value: f64) {
        eprintln!("  {name:<32} {value:>12.3}");
        self.0.insert(name, json!((value * 1000.0).round() / 1000.0));
    }

    /// Adds how many ended in each second, and how long they took.
    pub(crate) fn set_latencies(&mut self, name: &str, time: Duration, latencies: &Histogram<u64>) {
        self.set(format!("{name}_per_s"), latencies.len() as f64 / time.as_secs_f64());
        for (at, share) in [("p50", 0.5), ("p99", 0.99)] {
            self.set(format!("{name}_{at}_ms"), latencies.value_at_quantile(share) as f64 / 1e3);
        }
    }

    /// Prints everything on standard output.
    pub(crate) fn print(&self, peer: &str, versions: &Value, json: bool) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        if json {
            let (machine, figures) = (json!({"cores": cores}), json!({peer: self.0}));
            println!(
                "{}",
                json!({"bench": "serve", "machine": machine, "versions": versions, "figures": figures})
            );
            return;
        }
        println!("{peer}, {cores} cores, {versions}");
        self.0.iter().for_each(|(name, value)| println!("{name:<32} {value:>12}"));
    }
}

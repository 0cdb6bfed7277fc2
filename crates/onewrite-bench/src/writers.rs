//! The user's writes, with nothing else going on and while a relay drains a backlog.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use onewrite::{Shutdown, sqlite::SqliteStore};

use crate::{
    drain,
    load::{self, Latencies},
    report::Report,
};

/// The user's writes a second.
const RATE: u64 = 200;

/// Measures both on one store.
///
/// # Errors
/// What the stores say.
pub(crate) async fn run(
    folder: &Path,
    time: Duration,
    backlog: u64,
    report: &mut Report,
) -> Result<()> {
    eprintln!("writers: {RATE} writes/s beside a backlog of {backlog} events");
    let store = load::open(&folder.join("writers.db")).await?;
    load::preload(&store, backlog).await?;
    let idle = write(&store, time).await?;
    report.set_latencies("writers", "idle", &idle);
    let done = Arc::new(AtomicBool::new(false));
    let draining = tokio::spawn(drain_again(
        store.clone(),
        folder.join("writers-inbox.db"),
        backlog,
        Arc::clone(&done),
    ));
    let busy = write(&store, time).await?;
    done.store(true, Ordering::Relaxed);
    report.set_latencies("writers", "draining", &busy);
    report.set("writers", "drained_meanwhile_per_s", draining.await.context("the drain")??);
    Ok(())
}

/// Drains the backlog into one new sink after the other until `done`; returns events a second.
async fn drain_again(
    store: SqliteStore,
    path: std::path::PathBuf,
    backlog: u64,
    done: Arc<AtomicBool>,
) -> Result<f64> {
    let (began, mut drained) = (Instant::now(), 0);
    for round in 0.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("writers-{round}");
        let (sink, feed) = onewrite::memory(name.clone());
        let (inbox, seen) = drain::counting_inbox(&path, &name)?;
        let shutdown = Shutdown::default();
        let receiver = load::receiver(inbox).run(Box::new(feed), shutdown.clone());
        let relay = drain::relay(&store, sink, &name).run(shutdown.clone());
        let (receiver, relay) = (tokio::spawn(receiver), tokio::spawn(relay));
        while seen.load(Ordering::Relaxed) < backlog && !done.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        drained += seen.load(Ordering::Relaxed);
        shutdown.begin();
        relay.await.context("the relay")?;
        receiver.await.context("the receiver")?;
    }
    Ok(drained as f64 / began.elapsed().as_secs_f64())
}

/// One row and one event at each arrival; latencies count from the time that was due.
async fn write(store: &SqliteStore, time: Duration) -> Result<Latencies> {
    let latencies = Arc::new(Mutex::new(Latencies::new()?));
    let payload = load::payload();
    load::open_loop(RATE, time, |number, due| {
        let placed = load::place(store.clone(), number, payload.clone());
        let latencies = Arc::clone(&latencies);
        async move {
            placed.await?;
            latencies.lock().unwrap_or_else(PoisonError::into_inner).add(due.elapsed());
            Ok(())
        }
    })
    .await?;
    let empty = Latencies::new()?;
    let mut latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::replace(&mut *latencies, empty))
}

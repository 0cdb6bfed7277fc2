//! H2 and H12 on PostgreSQL: an idle transaction of a writer and a slow sink, for minutes.
//!
//! One writer begins, takes a transaction id and a snapshot, and stays idle. The log must go on: events
//! are delivered, segments are emptied although the old snapshot is there, and writes do not become
//! slower with what has gone. The slow sink takes a tenth of what is emitted until it is suspended for its
//! budget; from then on it must not hold the log.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use onewrite::{
    BoxFuture, Budget, Delivery, NullSink, Relay, RelayOptions, Retention, Shutdown, Store as _,
    Sweeper, broker,
    broker::Receipt,
    postgres::{Options, PostgresStore, emit, tokio_postgres, tokio_postgres::NoTls},
};
use onewrite_testkit::server::Postgres;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Verdict;
use crate::{
    drain,
    load::{self, Latencies},
};

const RATE: u64 = 1_000;
const SAMPLE_EVERY: Duration = Duration::from_secs(10);

const RETENTION: Retention = Retention {
    log: Duration::from_secs(20),
    history: Duration::from_secs(20),
    every: Duration::from_secs(1),
};

/// What a record of this soak takes in the log with its indexes, at most.
const RECORD_BYTES: u64 = 1_200;

#[derive(Debug, Clone, Copy)]
struct Sample {
    seconds: u64,
    idle: bool,
    /// The log with its indexes.
    log_bytes: u64,
    /// What is rewritten in place: cursors, leases, marks, bounds, and the outbox.
    small_bytes: u64,
    behind: u64,
    write_p99_ms: f64,
}

/// Takes a tenth of what comes.
struct Slow;

impl broker::Sink for Slow {
    fn publish<'a>(
        &'a self,
        batch: &'a [Delivery],
    ) -> BoxFuture<'a, onewrite::Result<Vec<Receipt>>> {
        Box::pin(async move {
            let pause = Duration::from_secs_f64(batch.len() as f64 * 10.0 / RATE as f64);
            tokio::time::sleep(pause).await;
            Ok(vec![Receipt::Accepted; batch.len()])
        })
    }
}

/// The idle transaction is there from a tenth of the time to nine tenths of it.
pub(super) async fn run(time: Duration) -> Result<Verdict> {
    let server = Postgres::start().await.context("start PostgreSQL")?;
    server.create_database("growth").await?;
    let url = server.url("growth");
    let store = PostgresStore::open(Options::from_url(&url)?).await?;
    let (shutdown, mut tasks) = (Shutdown::default(), JoinSet::new());
    tasks.spawn(drain::relay(&store, NullSink::default(), "fast").run(shutdown.clone()));
    let budget = Budget { age: time / 3, ..Budget::default() };
    let slow = RelayOptions { budget, ..RelayOptions::new("slow") };
    let slow = Relay::new(Arc::new(store.clone()), Arc::new(Slow), slow, "bench");
    tasks.spawn(slow.run(shutdown.clone()));
    tasks.spawn(Sweeper::new(Arc::new(store.clone()), RETENTION).run(shutdown.clone()));
    let latencies = Arc::new(Mutex::new(Latencies::new()?));
    let writer = tokio::spawn(writes(store.clone(), time, Arc::clone(&latencies)));
    let (began, mut samples, mut idle) = (Instant::now(), Vec::new(), None);
    while began.elapsed() < time {
        tokio::time::sleep(SAMPLE_EVERY.min(time / 10)).await;
        let share = began.elapsed().as_secs_f64() / time.as_secs_f64();
        if idle.is_none() && (0.1..0.9).contains(&share) {
            idle = Some(idle_writer(&url).await?);
        } else if share >= 0.9 {
            idle = None;
        }
        let sample = sample(&store, &url, began, idle.is_some(), &latencies).await?;
        eprintln!("  {}", shown(&sample));
        samples.push(sample);
    }
    writer.await.context("the writer")??;
    let suspended = store.sinks().await?.iter().any(|sink| sink.suspended.is_some());
    shutdown.begin();
    tasks.join_all().await;
    Ok(verdict(time, &samples, suspended))
}

/// A transaction with an id and a snapshot that does nothing more. It ends when this is dropped.
async fn idle_writer(url: &str) -> Result<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    client
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()")
        .await?;
    Ok(client)
}

async fn writes(
    store: PostgresStore,
    time: Duration,
    latencies: Arc<Mutex<Latencies>>,
) -> Result<()> {
    let payload = load::payload();
    load::open_loop(RATE, time, |number, due| {
        let (store, event) = (store.clone(), load::event(number, &payload));
        let latencies = Arc::clone(&latencies);
        async move {
            store
                .write(move |tx| Box::pin(async move { emit(tx, &event).await.map(|_| ()) }))
                .await?;
            latencies.lock().unwrap_or_else(PoisonError::into_inner).add(due.elapsed());
            Ok(())
        }
    })
    .await
}

async fn sample(
    store: &PostgresStore,
    url: &str,
    began: Instant,
    idle: bool,
    latencies: &Mutex<Latencies>,
) -> Result<Sample> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    let sizes = client
        .query_one(
            "SELECT (SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'onewrite.log'::regclass)::int8,
                    (SELECT sum(pg_total_relation_size(('onewrite.' || name)::regclass))
                     FROM unnest(ARRAY['cursor', 'lease', 'member', 'trimmed', 'sweep', 'outbox', 'source', 'sink']) name)::int8",
            &[],
        )
        .await?;
    let fresh = Latencies::new()?;
    let seen = {
        let mut own = latencies.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *own, fresh)
    };
    let sinks = store.sinks().await?;
    let fast = sinks.iter().find(|sink| sink.name == "fast").map_or(0, |sink| sink.behind);
    Ok(Sample {
        seconds: began.elapsed().as_secs(),
        idle,
        log_bytes: sizes.get::<_, i64>(0).cast_unsigned(),
        small_bytes: sizes.get::<_, i64>(1).cast_unsigned(),
        behind: fast,
        write_p99_ms: seen.quantile_ms(0.99),
    })
}

fn shown(sample: &Sample) -> String {
    format!(
        "{:>5} s {} log {:>8} KiB, small tables {:>8} KiB, fast sink behind {:>6}, write p99 {:>8.2} ms",
        sample.seconds,
        if sample.idle { "idle" } else { "    " },
        sample.log_bytes / 1024,
        sample.small_bytes / 1024,
        sample.behind,
        sample.write_p99_ms
    )
}

fn verdict(time: Duration, samples: &[Sample], suspended: bool) -> Verdict {
    // Until the slow sink is suspended the log keeps everything; afterwards, its retention and a segment.
    let kept = time.as_secs() / 3 + 3 * RETENTION.log.as_secs() + 60;
    let log_allowed = kept * RATE * RECORD_BYTES;
    let last = samples.last().map_or(0, |sample| sample.log_bytes);
    let log_max = samples.iter().map(|sample| sample.log_bytes).max().unwrap_or(0);
    let p99 = |idle: bool| {
        let them = samples.iter().filter(|sample| sample.idle == idle);
        crate::report::median(them.map(|sample| sample.write_p99_ms).collect())
    };
    let series: Vec<Value> = samples
        .iter()
        .map(|it| {
            json!([it.seconds, it.idle, it.log_bytes, it.small_bytes, it.behind, it.write_p99_ms])
        })
        .collect();
    let emptied = samples.windows(2).any(|two| two[1].idle && two[1].log_bytes < two[0].log_bytes);
    Verdict {
        held: vec![
            ("writer_idle", samples.iter().any(|sample| sample.idle)),
            ("delivered", samples.iter().all(|sample| sample.behind < RATE * 5)),
            ("slow_sink_suspended", suspended),
            ("bounded_log", log_max <= log_allowed),
            ("emptied_under_snapshot", emptied),
        ],
        figures: json!({
            "events_per_s": RATE,
            "log_bytes_max": log_max,
            "log_bytes_allowed": log_allowed,
            "log_bytes_last": last,
            "small_bytes_max": samples.iter().map(|sample| sample.small_bytes).max(),
            "write_p99_ms_idle": p99(true),
            "write_p99_ms_without": p99(false),
            "columns": ["seconds", "idle", "log_bytes", "small_bytes", "behind", "write_p99_ms"],
            "series": series,
        }),
    }
}

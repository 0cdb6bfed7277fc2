//! H12: writers, a relay and retention go on while a reader holds its transaction open.
//!
//! The log's rows must stay bounded throughout: retention deletes them whoever reads. SQLite's own
//! write-ahead log cannot be reset under a reader and grows; it must be reset once the reader ends.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use onewrite::{NullSink, Retention, Shutdown, Sweeper, other, sqlite::SqliteStore};
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Verdict;
use crate::{
    drain,
    load::{self, Latencies},
    machine,
};

const RATE: u64 = 2_000;
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

const RETENTION: Retention = Retention {
    log: Duration::from_secs(5),
    history: Duration::from_secs(10),
    every: Duration::from_secs(1),
};

/// What may wait beyond its retention: the pause of the sweeper, the relay's notes of its cursors.
const SLACK: Duration = Duration::from_secs(10);

/// The write-ahead log at rest, where the store sets no limit of its own.
const WAL_BYTES_MAX: u64 = 64 * 1024 * 1024;

#[derive(Debug, Clone, Copy)]
struct Sample {
    seconds: u64,
    reader: bool,
    log_rows: u64,
    history_rows: u64,
    db_bytes: u64,
    wal_bytes: u64,
    writes: u64,
    write_p99_ms: f64,
}

/// The reader is there from a tenth of the time to three quarters of it.
pub(super) async fn run(folder: &Path, time: Duration) -> Result<Verdict> {
    let path = folder.join("h12.db");
    let store = load::open(&path).await?;
    let (shutdown, mut tasks) = (Shutdown::default(), JoinSet::new());
    tasks.spawn(drain::relay(&store, NullSink::default(), "h12").run(shutdown.clone()));
    tasks.spawn(Sweeper::new(Arc::new(store.clone()), RETENTION).run(shutdown.clone()));
    let latencies = Arc::new(Mutex::new(Latencies::new()?));
    let writer = tokio::spawn(writes(store.clone(), time, Arc::clone(&latencies)));
    let (reading, end) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let reader = tokio::task::spawn_blocking({
        let (path, reading, end) = (path.clone(), Arc::clone(&reading), Arc::clone(&end));
        move || read(&path, time / 10, &reading, &end)
    });
    let (began, mut samples) = (Instant::now(), Vec::new());
    while began.elapsed() < time {
        tokio::time::sleep(SAMPLE_EVERY.min(time / 10)).await;
        if began.elapsed() > time * 3 / 4 {
            end.store(true, Ordering::Relaxed);
        }
        let sample =
            sample(&store, &path, began, reading.load(Ordering::Relaxed), &latencies).await?;
        eprintln!("  {}", shown(&sample));
        samples.push(sample);
    }
    end.store(true, Ordering::Relaxed);
    writer.await.context("the writer")??;
    reader.await.context("the reader")??;
    shutdown.begin();
    tasks.join_all().await;
    verdict(&store, &samples).await
}

/// Holds one snapshot open.
fn read(path: &Path, after: Duration, reading: &AtomicBool, end: &AtomicBool) -> Result<()> {
    std::thread::sleep(after);
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let count = |connection: &Connection| {
        connection.query_row("SELECT count(*) FROM onewrite_outbox", [], |row| row.get::<_, i64>(0))
    };
    connection.execute_batch("BEGIN")?;
    let first = count(&connection)?;
    reading.store(true, Ordering::Relaxed);
    while !end.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
    }
    anyhow::ensure!(count(&connection)? == first, "the reader's snapshot moved");
    connection.execute_batch("ROLLBACK")?;
    reading.store(false, Ordering::Relaxed);
    Ok(())
}

async fn writes(
    store: SqliteStore,
    time: Duration,
    latencies: Arc<Mutex<Latencies>>,
) -> Result<()> {
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
    .await
}

async fn sample(
    store: &SqliteStore,
    path: &Path,
    began: Instant,
    reader: bool,
    latencies: &Mutex<Latencies>,
) -> Result<Sample> {
    let (log_rows, history_rows) = store
        .read_with(|connection| {
            let count = |table: &str| {
                connection
                    .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
                        row.get::<_, i64>(0)
                    })
                    .map(i64::cast_unsigned)
                    .map_err(other)
            };
            Ok((count("onewrite_outbox")?, count("onewrite_history")?))
        })
        .await?;
    let empty = Latencies::new()?;
    let latencies = {
        let mut own = latencies.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *own, empty)
    };
    Ok(Sample {
        seconds: began.elapsed().as_secs(),
        reader,
        log_rows,
        history_rows,
        db_bytes: bytes(path),
        wal_bytes: bytes(&wal(path)),
        writes: latencies.count(),
        write_p99_ms: latencies.quantile_ms(0.99),
    })
}

fn wal(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

fn shown(sample: &Sample) -> String {
    format!(
        "{:>5} s {} log {:>7} rows, history {:>7} rows, db {:>6} KiB, wal {:>8} KiB, {:>6} writes, p99 {:>8.2} ms",
        sample.seconds,
        if sample.reader { "reader" } else { "      " },
        sample.log_rows,
        sample.history_rows,
        sample.db_bytes / 1024,
        sample.wal_bytes / 1024,
        sample.writes,
        sample.write_p99_ms
    )
}

async fn verdict(store: &SqliteStore, samples: &[Sample]) -> Result<Verdict> {
    let limit: i64 = store
        .write(|tx| tx.query_row("PRAGMA journal_size_limit", [], |row| row.get(0)).map_err(other))
        .await?;
    let wal_limit = u64::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(WAL_BYTES_MAX);
    let rows_max = |kept: Duration| RATE * (kept + RETENTION.every + SLACK).as_secs();
    let (log_max, history_max) =
        (rows_max(RETENTION.log), rows_max(RETENTION.log + RETENTION.history));
    let bounded = samples
        .iter()
        .all(|sample| sample.log_rows <= log_max && sample.history_rows <= history_max);
    // A checkpoint that finds no reader lets the next writer start the log over and cut it.
    let last = samples.last();
    let recovered = last.is_some_and(|sample| sample.wal_bytes <= wal_limit);
    let most = |of: fn(&Sample) -> u64| samples.iter().map(of).max().unwrap_or(0);
    let p99 = |with: bool| {
        let them = samples.iter().filter(|sample| sample.reader == with);
        crate::report::median(them.map(|sample| sample.write_p99_ms).collect())
    };
    let series: Vec<Value> = samples
        .iter()
        .map(|it| {
            json!([
                it.seconds,
                it.reader,
                it.log_rows,
                it.history_rows,
                it.db_bytes,
                it.wal_bytes,
                it.write_p99_ms
            ])
        })
        .collect();
    Ok(Verdict {
        held: vec![
            ("reader_held", samples.iter().any(|sample| sample.reader)),
            ("bounded_rows", bounded),
            ("wal_recovered", recovered),
        ],
        figures: json!({
            "events_per_s": RATE,
            "log_rows_max": most(|sample| sample.log_rows),
            "log_rows_allowed": log_max,
            "history_rows_max": most(|sample| sample.history_rows),
            "history_rows_allowed": history_max,
            "db_bytes_max": most(|sample| sample.db_bytes),
            "wal_bytes_max": most(|sample| sample.wal_bytes),
            "wal_bytes_last": last.map(|sample| sample.wal_bytes),
            "wal_bytes_allowed": wal_limit,
            "journal_size_limit": limit,
            "write_p99_ms_with_reader": p99(true),
            "write_p99_ms_without": p99(false),
            "peak_mib": machine::peak_mib(),
            "columns": ["seconds", "reader", "log_rows", "history_rows", "db_bytes", "wal_bytes", "write_p99_ms"],
            "series": series,
        }),
    })
}

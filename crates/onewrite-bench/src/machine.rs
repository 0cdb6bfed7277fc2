//! What a figure was measured on: machine, settings, versions, and what the disk takes to flush.

use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Instant,
};

use anyhow::{Context as _, Result};
use onewrite::{other, sqlite};
use serde_json::{Value, json};

const FLUSHES: usize = 200;
const BLOCK_BYTES: usize = 4096;

/// Where the figures were measured.
#[derive(Debug)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    memory_mib: u64,
    kernel: String,
    filesystem: String,
    flush_us: f64,
    journal_mode: String,
    synchronous: i64,
}

impl Machine {
    /// Looks at this machine, at the disk below `folder`, and at the settings of a fresh store there.
    ///
    /// # Errors
    /// When `folder` cannot be written to.
    pub(crate) async fn look(folder: &Path) -> Result<Self> {
        let store = sqlite::SqliteStore::open(sqlite::Options::new(folder.join("settings.db")))?;
        let (journal_mode, synchronous) = store
            .write(|tx| {
                let pragma = |name: &str| format!("PRAGMA {name}");
                let mode = tx.query_row(&pragma("journal_mode"), [], |row| row.get(0));
                let level = tx.query_row(&pragma("synchronous"), [], |row| row.get(0));
                Ok((mode.map_err(other)?, level.map_err(other)?))
            })
            .await?;
        Ok(Self {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: kib("/proc/meminfo", "MemTotal") / 1024,
            kernel: read("/proc/sys/kernel/osrelease"),
            filesystem: filesystem(folder),
            flush_us: flush_us(&folder.join("flush"))?,
            journal_mode,
            synchronous,
        })
    }

    /// As it stands in the report.
    #[must_use]
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "cpu": self.cpu,
            "cores": self.cores,
            "memory_mib": self.memory_mib,
            "kernel": self.kernel,
            "filesystem": self.filesystem,
            "fdatasync_4k_median_us": self.flush_us,
        })
    }

    /// The settings of the stores measured.
    #[must_use]
    pub(crate) fn settings(&self) -> Value {
        json!({
            "journal_mode": self.journal_mode,
            "synchronous": if self.synchronous == 2 { "FULL".into() } else { self.synchronous.to_string() },
            "payload_bytes": crate::load::PAYLOAD_BYTES,
            "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
        })
    }

    /// The versions of what takes part.
    #[must_use]
    pub(crate) fn versions() -> Value {
        json!({
            "onewrite": env!("CARGO_PKG_VERSION"),
            "rustc": env!("BENCH_RUSTC"),
            "sqlite": rusqlite::version(),
        })
    }
}

/// Starts the count of [`peak_mib`] anew, where the system lets a process do that.
pub(crate) fn forget_peak() {
    // Without the right the peak is the one since the process began, which is no less true.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The most memory this process had in use since [`forget_peak`].
#[must_use]
pub(crate) fn peak_mib() -> f64 {
    kib("/proc/self/status", "VmHWM") as f64 / 1024.0
}

/// The processor's time that this process has used, in seconds.
#[must_use]
pub(crate) fn cpu_seconds() -> f64 {
    // Fields 14 and 15, behind the name in parentheses: ticks, of which a second has 100.
    let text = read("/proc/self/stat");
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    ticks / 100.0
}

/// The flushes of the disk below `folder` since the machine began, whoever asked for them; none where the
/// system does not count them.
#[must_use]
pub(crate) fn flushes(folder: &Path) -> Option<u64> {
    let device = fs::metadata(folder).ok()?.dev();
    let place =
        [rustix::fs::major(device), rustix::fs::minor(device)].map(|number| number.to_string());
    let text = fs::read_to_string("/proc/diskstats").ok()?;
    let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|line| line.get(..2).is_some_and(|own| own == place))?;
    line.get(18)?.parse().ok()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".into(), |text| text.trim().to_owned())
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

fn kib(path: &str, name: &str) -> u64 {
    field(path, name)
        .and_then(|value| value.split_whitespace().next().and_then(|number| number.parse().ok()))
        .unwrap_or(0)
}

/// The type of the file system that holds `folder`: of the mount point with the longest path above it.
fn filesystem(folder: &Path) -> String {
    let (mounts, Ok(folder)) = (read("/proc/self/mounts"), folder.canonicalize()) else {
        return "unknown".into();
    };
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            Some((words.next()?, words.next()?))
        })
        .filter(|(point, _)| folder.starts_with(point))
        .max_by_key(|(point, _)| point.len())
        .map_or_else(|| "unknown".into(), |(_, kind)| kind.to_owned())
}

/// The median time of writing one block over an old one and flushing it, as a commit to a WAL does.
fn flush_us(path: &Path) -> Result<f64> {
    let flush = || -> std::io::Result<Vec<f64>> {
        let mut file = fs::File::create(path)?;
        file.write_all(&vec![1; BLOCK_BYTES * FLUSHES])?;
        file.sync_all()?;
        file.seek(SeekFrom::Start(0))?;
        let block = [2; BLOCK_BYTES];
        let mut times = Vec::with_capacity(FLUSHES);
        for _ in 0..FLUSHES {
            let began = Instant::now();
            file.write_all(&block)?;
            file.sync_data()?;
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
        Ok(times)
    };
    let times = flush().context("time the disk's flushes")?;
    Ok(crate::report::median(times))
}

//! S33: what was acknowledged is there after the process was killed.
//!
//! A child writes through `store.write` and prints each id once it is acknowledged; its parent kills
//! it at a random time, opens the file, and looks for every id that was printed. A kill leaves the
//! operating system alive: that a commit also reaches the disk rests on `synchronous=FULL`, which is
//! looked at in the child.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use onewrite::{Shutdown, control, other, sqlite::SqliteStore};
use onewrite_testkit::child::{Child, End, READY};
use rand::Rng as _;
use serde_json::json;
use tokio::{process::Command, task::JoinSet};

use super::Verdict;
use crate::load;

/// Callers at once in a child.
const CALLERS: u64 = 16;

/// A child's longest life in milliseconds.
const LIFE_MS_MAX: u64 = 400;

/// Children before the file is started anew, so that looking through it stays quick.
const CHILDREN_PER_FILE: u64 = 20;

/// What a child writes.
#[derive(clap::Args)]
pub(crate) struct WriterOptions {
    /// The database.
    database: PathBuf,
    /// The first number of its ids.
    first: u64,
}

/// The child: writes until it is killed.
///
/// # Errors
/// What the store says.
pub(crate) async fn write(options: WriterOptions) -> Result<()> {
    let shutdown = Shutdown::default();
    control::listen(&shutdown);
    let store = load::open_again(&options.database)?;
    let level: i64 = store
        .write(|tx| tx.query_row("PRAGMA synchronous", [], |row| row.get(0)).map_err(other))
        .await?;
    ensure!(level == 2, "the store's writer runs with synchronous={level}");
    println!("{READY}");
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (store, shutdown) = (store.clone(), shutdown.clone());
        let first = options.first + caller;
        callers.spawn(async move {
            let payload = load::payload();
            for round in 0.. {
                if shutdown.has_begun() {
                    break;
                }
                let number = first + round * CALLERS;
                load::place(store.clone(), number, payload.clone()).await?;
                println!("o-{number}");
            }
            Ok::<_, onewrite::Error>(())
        });
    }
    while let Some(done) = callers.join_next().await {
        done.context("a caller")??;
    }
    Ok(())
}

/// Kills children until the time is over.
pub(super) async fn run(folder: &Path, time: Duration) -> Result<Verdict> {
    let began = Instant::now();
    let (mut children, mut acknowledged, mut missing, mut torn) = (0_u64, 0_u64, 0_u64, 0_u64);
    let mut printed: HashSet<String> = HashSet::new();
    while began.elapsed() < time {
        let database = folder.join(format!("s33-{}.db", children / CHILDREN_PER_FILE));
        if children.is_multiple_of(CHILDREN_PER_FILE) {
            printed.clear();
            drop(load::open(&database).await?);
        }
        let new = life(&database, (children + 1) * 10_000_000).await?;
        acknowledged += new.len() as u64;
        printed.extend(new);
        children += 1;
        let store = load::open_again(&database)?;
        let (found, rows) = stored(&store).await?;
        missing += printed.iter().filter(|id| !found.contains(*id)).count() as u64;
        torn += rows.abs_diff(found.len() as u64);
        if children.is_multiple_of(CHILDREN_PER_FILE) {
            eprintln!(
                "  {children} children killed, {acknowledged} writes acknowledged, {missing} missing"
            );
        }
    }
    Ok(Verdict {
        held: vec![
            ("acknowledged_is_there", missing == 0 && acknowledged > 0),
            ("row_and_event_together", torn == 0),
        ],
        figures: json!({
            "kills": children,
            "acknowledged": acknowledged,
            "missing": missing,
            "torn": torn,
        }),
    })
}

/// One child from its start to its end; returns what it acknowledged.
async fn life(database: &Path, first: u64) -> Result<Vec<String>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("writer").arg(database).arg(first.to_string());
    let mut child = Child::start(command).await.context("start a child")?;
    let end = Instant::now() + Duration::from_millis(rand::rng().random_range(5..LIFE_MS_MAX));
    let mut printed = Vec::new();
    let mut killed = false;
    loop {
        let line = if killed {
            child.line().await?
        } else {
            tokio::select! {
                line = child.line() => line?,
                () = tokio::time::sleep_until(end.into()) => {
                    child.kill()?;
                    killed = true;
                    continue;
                }
            }
        };
        match line {
            Some(line) => printed.push(line),
            None => break,
        }
    }
    ensure!(child.wait().await? == End::Killed, "a child ended by itself");
    // The kill may have cut the last line off; a line with a gap in it acknowledges nothing.
    if printed.last().is_some_and(|line| !is_whole(line, first)) {
        printed.pop();
    }
    Ok(printed)
}

/// Whether `line` is an id of this child in full: each has as many digits as the first.
fn is_whole(line: &str, first: u64) -> bool {
    let digits = line.strip_prefix("o-").map_or(0, str::len);
    digits == first.to_string().len()
}

/// The aggregate ids in the log, and the number of the user's rows.
async fn stored(store: &SqliteStore) -> Result<(HashSet<String>, u64)> {
    Ok(store
        .read_with(|connection| {
            let ids = connection
                .prepare("SELECT aggregateid FROM onewrite_outbox")
                .and_then(|mut all| all.query_map([], |row| row.get(0))?.collect())
                .map_err(other)?;
            let rows: i64 = connection
                .query_row("SELECT count(*) FROM orders", [], |row| row.get(0))
                .map_err(other)?;
            Ok((ids, rows.cast_unsigned()))
        })
        .await?)
}

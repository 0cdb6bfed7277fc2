//! The user's transaction with an event against the same with a plain insert, and the shared writer.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use onewrite::sqlite;
use rusqlite::{Connection, TransactionBehavior};
use tokio::{sync::Mutex, task::JoinSet};

use crate::{
    load::{self, Latencies},
    report::{Report, median},
};

/// Pairs of blocks measured: many short ones, because a disk shared with others changes its pace by
/// the second, and both of a pair should see the same.
const PAIRS: u32 = 32;

/// What users write who do without: five columns and nothing else.
const PLAIN: &str = "CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, aggregatetype TEXT NOT NULL, aggregateid TEXT NOT NULL, type TEXT NOT NULL, payload BLOB NOT NULL)";

/// Measures both, block by block in turn, so that both see the same disk.
///
/// # Errors
/// What the databases say.
pub(crate) async fn run(folder: &Path, time: Duration, report: &mut Report) -> Result<()> {
    eprintln!("emit: one connection, one transaction each");
    drop(load::open(&folder.join("emit.db")).await?);
    let (raw, with) = (folder.join("raw.db"), folder.join("emit.db"));
    let block = time / (2 * PAIRS);
    let pairs = tokio::task::spawn_blocking(move || in_turn(&raw, &with, block)).await??;
    let middle = |of: fn(&(f64, f64)) -> f64| median(pairs.iter().map(of).collect());
    report.set("emit", "raw_tx_per_s", middle(|(raw, _)| *raw));
    report.set("emit", "onewrite_tx_per_s", middle(|(_, with)| *with));
    report.set("emit", "ratio", middle(|(raw, with)| with / raw));
    for callers in [1, 16, 64] {
        let path = folder.join(format!("writer-{callers}.db"));
        shared_writer(&path, callers, time / 4, report).await?;
    }
    Ok(())
}

/// Transactions a second of each pair: without onewrite, and with it.
fn in_turn(raw: &Path, with: &Path, block: Duration) -> Result<Vec<(f64, f64)>> {
    let mut raw = connect(raw)?;
    raw.execute_batch(load::ORDERS).and_then(|()| raw.execute_batch(PLAIN))?;
    let mut with = connect(with)?;
    let (mut pairs, mut number) = (Vec::new(), 0);
    for pair in 0..=PAIRS {
        let rates = (
            rate(block, &mut number, |number, payload| plain(&mut raw, number, payload))?,
            rate(block, &mut number, |number, payload| emitting(&mut with, number, payload))?,
        );
        // The first pair warms up.
        if pair > 0 {
            pairs.push(rates);
        }
    }
    Ok(pairs)
}

fn connect(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    Ok(connection)
}

fn rate(
    block: Duration,
    number: &mut u64,
    mut transaction: impl FnMut(u64, &onewrite::Bytes) -> Result<()>,
) -> Result<f64> {
    let (began, first, payload) = (Instant::now(), *number, load::payload());
    while began.elapsed() < block {
        *number += 1;
        transaction(*number, &payload)?;
    }
    Ok((*number - first) as f64 / began.elapsed().as_secs_f64())
}

fn plain(connection: &mut Connection, number: u64, payload: &[u8]) -> Result<()> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    load::insert_order(&tx, number)?;
    tx.prepare_cached(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(("Order", format!("o-{number}"), "OrderPlaced", payload))?;
    Ok(tx.commit()?)
}

fn emitting(connection: &mut Connection, number: u64, payload: &onewrite::Bytes) -> Result<()> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    load::insert_order(&tx, number)?;
    sqlite::emit(&tx, &load::event(number, payload))?;
    Ok(sqlite::commit(tx)?)
}

/// So many callers that each write one order and one event after the other.
async fn shared_writer(
    path: &Path,
    callers: u64,
    time: Duration,
    report: &mut Report,
) -> Result<()> {
    eprintln!("emit: the shared writer, {callers} callers");
    let store = load::open(path).await?;
    let all = Arc::new(Mutex::new(Latencies::new()?));
    let mut tasks = JoinSet::new();
    let began = Instant::now();
    for caller in 0..callers {
        let (store, all) = (store.clone(), Arc::clone(&all));
        tasks.spawn(async move {
            let payload = load::payload();
            let mut own = Vec::new();
            while began.elapsed() < time {
                let (number, asked) = (caller + callers * own.len() as u64, Instant::now());
                load::place(store.clone(), number, payload.clone()).await?;
                own.push(asked.elapsed());
            }
            let mut all = all.lock().await;
            own.into_iter().for_each(|time| all.add(time));
            Ok::<_, onewrite::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.context("a caller")??;
    }
    let elapsed = began.elapsed().as_secs_f64();
    let all = all.lock().await;
    report.set("emit", format!("writer_{callers}_tx_per_s"), all.count() as f64 / elapsed);
    report.set("emit", format!("writer_{callers}_p50_ms"), all.quantile_ms(0.5));
    report.set("emit", format!("writer_{callers}_p99_ms"), all.quantile_ms(0.99));
    Ok(())
}

//! H1: transactions that stay open, pause and roll back, while a relay reads on.
//!
//! What was committed and what was delivered must be the same set, each once, in order of their key.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use onewrite::{
    Code, Event, Shutdown, Store as _,
    position::Sequence,
    sqlite,
    sqlite::{InboxOptions, SqliteInbox, SqliteStore},
};
use onewrite_testkit::history::{Committed, check};
use rand::Rng as _;
use rusqlite::{Connection, TransactionBehavior};
use serde_json::json;

use super::Verdict;
use crate::{drain, load};

const WRITERS: usize = 2;
const KEYS: u32 = 50;

/// How long the last events may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest pause within a transaction, in milliseconds.
const PAUSE_MS_MAX: u64 = 60;

type List = Arc<Mutex<Vec<(String, String)>>>;

#[derive(Debug, Default)]
struct Done {
    /// Sequence, key and id of what was committed.
    committed: Vec<(Sequence, String, String)>,
    transactions: u64,
    rolled_back: u64,
    paused: u64,
}

/// Two connections write side by side until the time is over.
pub(super) async fn run(folder: &Path, time: Duration) -> Result<Verdict> {
    let path = folder.join("h1.db");
    let store = load::open(&path).await?;
    let effects = List::default();
    let (shutdown, inbox) = (Shutdown::default(), inbox(&folder.join("h1-inbox.db"), &effects)?);
    let (sink, feed) = onewrite::memory("h1");
    let receiver = tokio::spawn(load::receiver(inbox).run(Box::new(feed), shutdown.clone()));
    let relay = tokio::spawn(drain::relay(&store, sink, "h1").run(shutdown.clone()));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let path = path.clone();
            tokio::task::spawn_blocking(move || write(&path, writer, time))
        })
        .collect();
    let mut total = Done::default();
    for writer in writers {
        let done = writer.await.context("a writer")??;
        total.committed.extend(done.committed);
        total.transactions += done.transactions;
        total.rolled_back += done.rolled_back;
        total.paused += done.paused;
    }
    // The writers' own word, not the log's, is what deliveries are compared with.
    total.committed.sort_unstable();
    let mut committed = Committed::default();
    for (_, key, id) in total.committed {
        committed.push(key, id);
    }
    let (waited, count) = (Instant::now(), committed.len());
    while lock(&effects).len() < count && waited.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let head = store.head().await?;
    shutdown.begin();
    relay.await.context("the relay")?;
    receiver.await.context("the receiver")?;
    let effects = lock(&effects).clone();
    let verdict = check(&committed, effects.iter().map(|(key, id)| (&**key, &**id)));
    eprintln!("  {count} events in {} transactions: {verdict}", total.transactions);
    Ok(Verdict {
        held: vec![
            (
                "set_equal",
                verdict.lost.count + verdict.duplicated.count + verdict.phantom.count == 0,
            ),
            ("in_order", verdict.out_of_order.count == 0),
            ("hazard_present", total.rolled_back > 0 && total.paused > 0),
        ],
        figures: json!({
            "transactions": total.transactions,
            "rolled_back": total.rolled_back,
            "paused": total.paused,
            "events": count,
            "sequences_drawn": head,
            "lost": verdict.lost.count,
            "duplicated": verdict.duplicated.count,
            "out_of_order": verdict.out_of_order.count,
            "phantom": verdict.phantom.count,
        }),
    })
}

fn lock(list: &List) -> std::sync::MutexGuard<'_, Vec<(String, String)>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An inbox whose handler notes what it is given. The log is judged, not the inbox's commits: a
/// handler of this soak never fails, so each of its runs is committed.
fn inbox(path: &Path, effects: &List) -> Result<SqliteInbox> {
    let store = SqliteStore::open(sqlite::Options::new(path))?;
    let effects = Arc::clone(effects);
    Ok(SqliteInbox::new(&store, InboxOptions::new("h1"), move |cx| {
        let key = cx.event().order_key().to_string();
        lock(&effects).push((key, cx.record().id().to_owned()));
        Ok(())
    })?)
}

/// Transactions of one to five events with pauses between; a third of them is rolled back.
fn write(path: &Path, writer: usize, time: Duration) -> Result<Done> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(60))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    let (began, mut done, mut random) = (Instant::now(), Done::default(), rand::rng());
    while began.elapsed() < time {
        // A deferred transaction takes the lock with its first write, an immediate one at once.
        let behavior = if random.random_bool(0.5) {
            TransactionBehavior::Deferred
        } else {
            TransactionBehavior::Immediate
        };
        let pauses = random.random_bool(0.2);
        let tx = connection.transaction_with_behavior(behavior)?;
        let mut placed = Vec::new();
        for number in 0..random.random_range(1..=5) {
            let key = format!("key-{}", random.random_range(0..KEYS));
            let event = Event::new("Written", "Writer", format!("{writer}-{number}"));
            match sqlite::emit(&tx, &event.key(key.clone())) {
                Ok(place) => placed.push((place.sequence, key, place.id.to_string())),
                // A deferred transaction that read before another one committed cannot write.
                Err(error) if error.code() == Code::StoreBusy => break,
                Err(error) => return Err(error.into()),
            }
            if pauses {
                let pause = random.random_range(1..PAUSE_MS_MAX);
                std::thread::sleep(Duration::from_millis(pause));
            }
        }
        done.paused += u64::from(pauses);
        if placed.is_empty() || random.random_bool(1.0 / 3.0) {
            tx.rollback()?;
            done.rolled_back += 1;
        } else {
            sqlite::commit(tx)?;
            done.transactions += 1;
            done.committed.append(&mut placed);
        }
        std::thread::sleep(Duration::from_micros(random.random_range(0..500)));
    }
    Ok(done)
}

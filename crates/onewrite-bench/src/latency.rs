//! From commit to handler, with arrivals that do not wait for the system under test.

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
    Shutdown, StartFrom, Store, sqlite,
    sqlite::{InboxOptions, SqliteInbox, SqliteStore},
    store::{Batch, Durability, Item, Op},
};
use rusqlite::{Connection, TransactionBehavior};
use tokio::task::JoinSet;

use crate::{
    drain,
    load::{self, Latencies},
    report::Report,
};

/// Arrivals before the measured ones: connections are made, caches filled.
pub(crate) const WARM_UP: Duration = Duration::from_secs(1);

/// How long nothing may arrive while events are missing: a slow disk is no loss.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many events the sink that is not served is behind: it must not hold up the other one.
const BEHIND: u64 = 300_000;

/// Who commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum User {
    /// Through `store.write`.
    Queue,
    /// On a connection of its own, which the relay only notices by looking.
    Connection,
}

/// Measures both rates, and a user with a connection of its own.
///
/// # Errors
/// What the stores say, or when events do not arrive.
pub(crate) async fn run(folder: &Path, time: Duration, report: &mut Report) -> Result<()> {
    let cases = [
        Case { name: "500", rate: 500, user: User::Queue, behind: 0 },
        Case { name: "2000", rate: 2_000, user: User::Queue, behind: 0 },
        Case { name: "500_own", rate: 500, user: User::Connection, behind: 0 },
        Case { name: "500_dead_sink", rate: 500, user: User::Queue, behind: BEHIND },
    ];
    for case in cases {
        eprintln!("latency: {case:?}");
        let name = case.name;
        let folder = folder.join(format!("latency-{name}"));
        std::fs::create_dir_all(&folder)?;
        let measured = measure(&folder, case, time).await?;
        report.set_latencies("latency", name, &measured.since_commit);
        report.set_latencies("latency", &format!("{name}_since_due"), &measured.since_due);
        report.set_latencies("latency", &format!("{name}_write"), &measured.write);
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    /// Events a second.
    rate: u64,
    user: User,
    /// How many events another sink is behind.
    behind: u64,
}

pub(crate) struct Measured {
    pub(crate) since_commit: Latencies,
    pub(crate) since_due: Latencies,
    pub(crate) write: Latencies,
}

/// When something happened to each event, in microseconds since the start; 0 for not yet.
pub(crate) struct Times {
    began: Instant,
    pub(crate) due: Vec<AtomicU64>,
    pub(crate) committed: Vec<AtomicU64>,
    pub(crate) handled: Vec<AtomicU64>,
}

impl Times {
    pub(crate) fn new(count: u64) -> Self {
        let empty = || (0..count).map(|_| AtomicU64::new(0)).collect();
        Self { began: Instant::now(), due: empty(), committed: empty(), handled: empty() }
    }

    /// Waits until every event reached its handler.
    pub(crate) async fn until_handled(&self) -> Result<()> {
        let (mut least, mut since) = (usize::MAX, Instant::now());
        loop {
            let missing = self.missing();
            if missing.is_empty() {
                return Ok(());
            }
            if missing.len() < least {
                (least, since) = (missing.len(), Instant::now());
            } else if since.elapsed() > PATIENCE {
                let first = missing.iter().take(5).collect::<Vec<_>>();
                bail!("{} events never reached their handler: {first:?} …", missing.len());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn missing(&self) -> Vec<u64> {
        let unhandled = |(at, _): &(&AtomicU64, u64)| at.load(Ordering::Relaxed) == 0;
        self.handled.iter().zip(0..).filter(unhandled).map(|(_, number)| number).collect()
    }

    /// The first time counts: a handler may run again.
    pub(crate) fn note(&self, list: &[AtomicU64], number: u64, at: Instant) {
        let micros = at.saturating_duration_since(self.began).as_micros();
        let micros = u64::try_from(micros).unwrap_or(u64::MAX).max(1);
        if let Some(slot) = usize::try_from(number).ok().and_then(|index| list.get(index)) {
            let _ = slot.compare_exchange(0, micros, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

async fn measure(folder: &Path, case: Case, time: Duration) -> Result<Measured> {
    let store = load::open(&folder.join("source.db")).await?;
    let Case { rate, user, behind, .. } = case;
    // Before the first arrival, so that each of them is behind the start of the measured sink.
    if behind > 0 {
        load::preload(&store, behind).await?;
        subscribe(&store, "dead", StartFrom::Beginning).await?;
    }
    subscribe(&store, "latency", StartFrom::Now).await?;
    let times = Arc::new(Times::new(((time + WARM_UP).as_secs_f64() * rate as f64) as u64));
    let (mut tasks, shutdown) = (JoinSet::new(), Shutdown::default());
    let inbox = noting_inbox(&folder.join("inbox.db"), Arc::clone(&times))?;
    let end = shutdown.clone();
    let url = load::serve(&mut tasks, &shutdown, move |feed| {
        load::receiver(inbox).run(Box::new(feed), end)
    })
    .await?;
    let relay = drain::relay(&store, load::http_sink(url)?, "latency");
    let relay = tokio::spawn(relay.run(shutdown.clone()));
    match user {
        User::Queue => queue(&store, rate, time + WARM_UP, &times).await?,
        User::Connection => {
            let (path, times) = (folder.join("source.db"), Arc::clone(&times));
            let emit = move || connection(&path, rate, time + WARM_UP, &times);
            tokio::task::spawn_blocking(emit).await??;
        }
    }
    times.until_handled().await?;
    shutdown.begin();
    relay.await.context("the relay")?;
    tasks.shutdown().await;
    evaluate(&times, rate)
}

pub(crate) async fn subscribe(
    store: &impl Store,
    sink: &'static str,
    from: StartFrom,
) -> Result<()> {
    let items = vec![Item { fence: None, ops: vec![Op::Subscribe { sink: sink.into(), from }] }];
    store.commit(Batch { durability: Durability::Durable, items }).await?;
    Ok(())
}

fn noting_inbox(path: &Path, times: Arc<Times>) -> Result<SqliteInbox> {
    let store = SqliteStore::open(sqlite::Options::new(path))?;
    Ok(SqliteInbox::new(&store, InboxOptions::new("latency"), move |cx| {
        let now = Instant::now();
        if let Some(number) = cx.event().aggregate_id.strip_prefix("o-") {
            times.note(&times.handled, number.parse()?, now);
        }
        Ok(())
    })?)
}

/// Arrivals that each write through the store's queue.
async fn queue(store: &SqliteStore, rate: u64, time: Duration, times: &Arc<Times>) -> Result<()> {
    let payload = load::payload();
    load::open_loop(rate, time, |number, due| {
        let (store, times, payload) = (store.clone(), Arc::clone(times), payload.clone());
        times.note(&times.due, number, due);
        async move {
            store
                .write(move |tx| sqlite::emit(tx, &load::event(number, &payload)).map(|_| ()))
                .await?;
            times.note(&times.committed, number, Instant::now());
            Ok(())
        }
    })
    .await
}

/// One connection that writes arrival after arrival; those that find it busy are late.
fn connection(path: &Path, rate: u64, time: Duration, times: &Times) -> Result<()> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    let payload = load::payload();
    let mut failed = None;
    load::arrivals(rate, time, |number, due| {
        times.note(&times.due, number, due);
        let write = || -> Result<()> {
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            sqlite::emit(&tx, &load::event(number, &payload))?;
            Ok(sqlite::commit(tx)?)
        };
        match { write }() {
            Ok(()) => times.note(&times.committed, number, Instant::now()),
            Err(error) => failed = Some(error),
        }
    });
    failed.map_or(Ok(()), Err)
}

pub(crate) fn evaluate(times: &Times, rate: u64) -> Result<Measured> {
    let mut measured = Measured {
        since_commit: Latencies::new()?,
        since_due: Latencies::new()?,
        write: Latencies::new()?,
    };
    let warm = usize::try_from(WARM_UP.as_secs() * rate)?;
    let lists = times.due.iter().zip(&times.committed).zip(&times.handled);
    for ((due, committed), handled) in lists.skip(warm) {
        let [due, committed, handled] =
            [due, committed, handled].map(|at| at.load(Ordering::Relaxed));
        let between = |from: u64, to: u64| Duration::from_micros(to.saturating_sub(from));
        measured.since_commit.add(between(committed, handled));
        measured.since_due.add(between(due, handled));
        measured.write.add(between(due, committed));
    }
    Ok(measured)
}

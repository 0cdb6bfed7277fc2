//! Retention: settled records leave the log in small batches.

use std::{sync::Arc, time::Duration};

use onewrite_core::{
    Result, Timestamp,
    store::{Batch, Durability, Item, Op, Outcome, Store},
};

use crate::Shutdown;

/// How long records and their stories stay.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Settled records stay in the log at least so long: new subscribers and receivers that fell back
    /// find them there.
    pub log: Duration,
    /// Stories (no data) stay so long.
    pub history: Duration,
    /// How often to look.
    pub every: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        Self { log: day, history: 30 * day, every: Duration::from_secs(5) }
    }
}

/// Deletes what is settled and old enough.
pub struct Sweeper {
    store: Arc<dyn Store>,
    retention: Retention,
}

impl Sweeper {
    /// A sweeper for `store`. Several may run; they do not harm each other.
    pub fn new(store: Arc<dyn Store>, retention: Retention) -> Self {
        Self { store, retention }
    }

    /// Sweeps until the shutdown.
    pub async fn run(self, shutdown: Shutdown) {
        let full = u64::from(self.store.trim_max());
        repeat(full, self.retention.every, &shutdown, || self.sweep()).await;
    }

    /// Deletes one batch; returns how many records left the log.
    ///
    /// # Errors
    /// What the store says.
    pub async fn sweep(&self) -> Result<u64> {
        let now = self.store.now().await?;
        let op = Op::Trim {
            before: ago(now, self.retention.log),
            history_before: ago(now, self.retention.history),
            limit: self.store.trim_max(),
        };
        commit_one(&*self.store, op).await
    }
}

/// Deletes batch after batch until the shutdown: the next at once behind one that was full, after everyone
/// else's turn, and otherwise after a while.
pub(crate) async fn repeat<Swept: Future<Output = Result<u64>>>(
    full: u64,
    every: Duration,
    shutdown: &Shutdown,
    sweep: impl Fn() -> Swept,
) {
    while !shutdown.has_begun() {
        let swept = tokio::select! {
            swept = sweep() => swept,
            () = shutdown.begun() => return,
        };
        match swept {
            Ok(deleted) if deleted >= full => tokio::task::yield_now().await,
            Ok(_) => pause(every, shutdown).await,
            Err(error) => {
                tracing::warn!(%error, "retention did not run");
                pause(every, shutdown).await;
            }
        }
    }
}

/// What the time was so long before.
pub(crate) fn ago(now: Timestamp, time: Duration) -> Timestamp {
    Timestamp(now.0.saturating_sub(i64::try_from(time.as_micros()).unwrap_or(i64::MAX)))
}

/// Commits one operation that need not survive a crash; returns how many rows it applied to.
pub(crate) async fn commit_one(store: &dyn Store, op: Op) -> Result<u64> {
    let items = vec![Item { fence: None, ops: vec![op] }];
    match store.commit(Batch { durability: Durability::Relaxed, items }).await?.pop() {
        Some(Outcome::Applied(count)) => Ok(count),
        Some(Outcome::Failed(error)) => Err(error),
        _ => Ok(0),
    }
}

pub(crate) async fn pause(time: Duration, shutdown: &Shutdown) {
    tokio::select! { () = tokio::time::sleep(time) => {}, () = shutdown.begun() => {} }
}

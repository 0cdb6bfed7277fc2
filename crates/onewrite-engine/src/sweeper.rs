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
        while !shutdown.has_begun() {
            match self.sweep().await {
                // A full batch: more is waiting, after everyone else's turn.
                Ok(deleted) if deleted >= u64::from(self.store.trim_max()) => {
                    tokio::task::yield_now().await
                }
                Ok(_) => pause(self.retention.every, &shutdown).await,
                Err(error) => {
                    tracing::warn!(%error, "retention did not run");
                    pause(self.retention.every, &shutdown).await;
                }
            }
        }
    }

    /// Deletes one batch; returns how many records left the log.
    ///
    /// # Errors
    /// What the store says.
    pub async fn sweep(&self) -> Result<u64> {
        let now = self.store.now().await?;
        let before = |age: Duration| {
            Timestamp(now.0.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX)))
        };
        let op = Op::Trim {
            before: before(self.retention.log),
            history_before: before(self.retention.history),
            limit: self.store.trim_max(),
        };
        let batch = Batch {
            durability: Durability::Relaxed,
            items: vec![Item { fence: None, ops: vec![op] }],
        };
        match self.store.commit(batch).await?.pop() {
            Some(Outcome::Applied(deleted)) => Ok(deleted),
            Some(Outcome::Failed(error)) => Err(error),
            _ => Ok(0),
        }
    }
}

pub(crate) async fn pause(time: Duration, shutdown: &Shutdown) {
    tokio::select! { () = tokio::time::sleep(time) => {}, () = shutdown.begun() => {} }
}

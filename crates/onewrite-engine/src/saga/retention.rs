//! Retention: sagas that ended long ago leave the store, and signals whose time is over.

use std::time::Duration;

use onewrite_core::{Result, saga::journal::Journal, store::Op};

use crate::{
    Shutdown,
    sweeper::{ago, commit_one, repeat},
};

/// Sagas, or signals, deleted in one transaction at most, so that others do not wait for it.
const LIMIT: u32 = 500;

/// Deletes what ended longer ago than `retention`, if that is to be, and signals whose time is over, until the
/// shutdown; looks for them so often. Several may run; they do not harm each other.
pub(super) async fn run(
    store: &dyn Journal,
    retention: Option<Duration>,
    every: Duration,
    shutdown: &Shutdown,
) {
    let signals = repeat(u64::from(LIMIT), every, shutdown, || {
        commit_one(store, Op::TrimSignals { limit: LIMIT })
    });
    let Some(retention) = retention else { return signals.await };
    let sagas = repeat(u64::from(LIMIT), every, shutdown, || sweep(store, retention));
    tokio::join!(signals, sagas);
}

async fn sweep(store: &dyn Journal, retention: Duration) -> Result<u64> {
    let before = ago(store.now().await?, retention);
    let deleted = commit_one(store, Op::TrimSagas { before, limit: LIMIT }).await?;
    metrics::counter!("onewrite_saga_trimmed_total").increment(deleted);
    Ok(deleted)
}

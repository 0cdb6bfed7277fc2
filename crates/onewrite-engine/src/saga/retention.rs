//! Retention: sagas that ended long ago leave the store, and signals whose time is over.

use std::{sync::Arc, time::Duration};

use onewrite_core::{
    Code, Error, Result, Timestamp,
    sabotage::{Defect, Sabotage},
    saga::{
        SagaId,
        journal::{FindSagas, Journal, SavedSaga},
    },
    store::Op,
};

use super::archive::Archive;
use crate::{
    Shutdown,
    sweeper::{ago, commit_one, repeat},
};

/// Sagas, or signals, deleted in one transaction at most, so that others do not wait for it.
const LIMIT: u32 = 500;

/// Sagas archived at once, and then deleted: they are read with all that they hold.
const ARCHIVED: u32 = 100;

/// Deletes what ended longer ago than `retention`, if that is to be, and signals whose time is over, until the
/// shutdown; looks for them so often. Several may run; they do not harm each other. With an archive, what it
/// does not keep is not deleted.
pub(super) async fn run(
    store: &dyn Journal,
    retention: Option<Duration>,
    archive: Option<&Arc<dyn Archive>>,
    every: Duration,
    shutdown: &Shutdown,
) {
    let signals = repeat(u64::from(LIMIT), every, shutdown, || {
        commit_one(store, Op::TrimSignals { limit: LIMIT })
    });
    let Some(retention) = retention else { return signals.await };
    let full = if archive.is_some() { ARCHIVED } else { LIMIT };
    let sagas = repeat(u64::from(full), every, shutdown, || sweep(store, retention, archive));
    tokio::join!(signals, sagas);
}

async fn sweep(
    store: &dyn Journal,
    retention: Duration,
    archive: Option<&Arc<dyn Archive>>,
) -> Result<u64> {
    let before = ago(store.now().await?, retention);
    let deleted = match archive {
        None => commit_one(store, Op::TrimSagas { before, limit: LIMIT, only: None }).await?,
        Some(archive) => move_to(archive, store, before).await?,
    };
    metrics::counter!("onewrite_saga_trimmed_total").increment(deleted);
    Ok(deleted)
}

/// Deletes what the archive has kept. Between the two nothing happens to a saga that has ended.
async fn move_to(
    archive: &Arc<dyn Archive>,
    store: &dyn Journal,
    before: Timestamp,
) -> Result<u64> {
    let ended = store.sagas(FindSagas::Ended { before, limit: ARCHIVED as usize }).await?;
    if ended.is_empty() {
        return Ok(0);
    }
    let only: Vec<SagaId> = ended.iter().map(|saga| saga.id).collect();
    let kept = keep(Arc::clone(archive), ended).await;
    if !Sabotage::from_env().has(Defect::DeleteUnkept) {
        kept?;
    }
    commit_one(store, Op::TrimSagas { before, limit: ARCHIVED, only: Some(only) }).await
}

/// The archive is the user's code: in a task of its own, what it does slowly, or with a panic, is not done to the
/// sagas of this process.
async fn keep(archive: Arc<dyn Archive>, sagas: Vec<SavedSaga>) -> Result<()> {
    let kept = tokio::spawn(async move { archive.keep(sagas).await }).await;
    kept.map_err(|error| {
        Error::new(Code::Stopped, "the archive of sagas ended unexpectedly").with_source(error)
    })?
}

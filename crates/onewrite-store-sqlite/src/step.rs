//! Steps of sagas whose effect and whose journal row are one commit.

use std::sync::{Arc, Mutex, PoisonError};

use onewrite_core::{
    Code, Error, Result,
    saga::{Ended, Journaling, Json, Transacted},
    store::{Durability, Outcome},
};
use rusqlite::Connection;

use crate::{SqliteStore, claim::Held, commit};

impl SqliteStore {
    /// Runs a step's function in the next group commit, together with the item that journals its output.
    ///
    /// Steps of many sagas, and everybody else's writes, share that commit: each still succeeds or fails
    /// on its own. `work` may run twice (when a commit is refused because of another's writes), so it must
    /// have no effects outside the transaction. It runs on the store's only writer, so everybody else's
    /// writes wait for it; and nobody can interrupt it.
    ///
    /// # Errors
    /// What the commit says; `CommitUnknown` when its outcome is not known.
    pub async fn carry_out<F>(&self, mut work: F, journal: Journaling) -> Result<Transacted>
    where
        F: FnMut(&Connection) -> Result<Json, Ended> + Send + 'static,
    {
        let (source, sabotage) = (self.current_source(), self.sabotage());
        // Why nothing of it is committed, if that is no trouble of the store's.
        let undone = Arc::new(Mutex::new(None));
        let why = Arc::clone(&undone);
        let note = move |transacted| {
            *why.lock().unwrap_or_else(PoisonError::into_inner) = transacted;
        };
        let written = self
            .engine_write(Durability::Durable, move |tx| {
                note(None);
                let roll_back = |transacted| {
                    note(Some(transacted));
                    Err(Error::new(Code::HandlerFailed, "the step has no effect"))
                };
                let output = match work(tx) {
                    Ok(output) => output,
                    Err(ended) => return roll_back(Transacted::Ended(ended)),
                };
                let mut held = Held::default();
                match commit::item(tx, &source, &journal(output)?, &mut held, sabotage) {
                    Outcome::Applied(count) => Ok(count),
                    Outcome::Failed(error) if error.code() != Code::SagaConflict => Err(error),
                    refused => roll_back(Transacted::Written(refused)),
                }
            })
            .await;
        let undone = undone.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (written, undone) {
            (Ok(count), _) => Ok(Transacted::Written(Outcome::Applied(count))),
            (Err(_), Some(transacted)) => Ok(transacted),
            (Err(error), None) => Err(error),
        }
    }
}

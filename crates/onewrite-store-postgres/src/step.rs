//! Steps of sagas whose effect and whose journal row are one commit.

use deadpool_postgres::Transaction;
use onewrite_core::{
    BoxFuture, Code, Error, Result,
    saga::{Ended, Journaling, Json, Transacted},
    store::Outcome,
};

use crate::{PostgresStore, commit, emit, error::While};

impl PostgresStore {
    /// Runs a step's function in a transaction, writes the item that journals its output there, and commits.
    ///
    /// Each is a commit of its own: the transitions of other sagas do not share it.
    ///
    /// # Errors
    /// What the database says; `CommitUnknown` when nobody knows whether it is committed.
    pub async fn carry_out<F>(&self, work: F, journal: Journaling) -> Result<Transacted>
    where
        F: for<'t> FnOnce(&'t Transaction<'t>) -> BoxFuture<'t, Result<Json, Ended>>,
    {
        let source = self.current_source();
        // Nothing has happened yet: that uses up no attempt.
        let not_made =
            |error: Error| Ok(Transacted::Ended(Ended::NotMade(error.to_string().into())));
        let mut client = match self.work().await {
            Ok(client) => client,
            Err(error) => return not_made(error),
        };
        let tx = match client.transaction().await.during("begin a step") {
            Ok(tx) => tx,
            Err(error) => return not_made(error),
        };
        let output = match work(&tx).await {
            Ok(output) => output,
            Err(ended) => {
                // Should it fail, the connection is gone, and with it the transaction.
                let _ = tx.rollback().await;
                return Ok(Transacted::Ended(ended));
            }
        };
        let mut emitted = Vec::new();
        let item = journal(output)?;
        match commit::write(&tx, &self.terms(&source), &item, &mut emitted).await {
            Ok(count) => {
                emit::append(&tx, &emitted).await?;
                commit::finish(tx).await?;
                Ok(Transacted::Written(Outcome::Applied(count)))
            }
            Err(error) => {
                let _ = tx.rollback().await;
                match error.code() {
                    Code::Fenced => Ok(Transacted::Written(Outcome::Fenced)),
                    Code::SagaConflict => Ok(Transacted::Written(Outcome::Failed(error))),
                    _ => Err(error),
                }
            }
        }
    }
}

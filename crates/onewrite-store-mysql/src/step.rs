//! Steps of sagas whose effect and whose journal row are one commit.

use mysql_async::Transaction;
use onewrite_core::{
    BoxFuture, Code, Error, Result,
    saga::{Ended, Journaling, Json, Transacted},
    store::Outcome,
};

use crate::{MysqlStore, commit, emit};

impl MysqlStore {
    /// Runs a step's function in a transaction, writes the item that journals its output there, and commits.
    ///
    /// Each is a commit of its own: the transitions of other sagas do not share it. The transaction must stay
    /// open: should the function end it (by a statement that commits by itself, DDL among others), what it
    /// wrote before that has happened, and the attempt counts as a failed one.
    ///
    /// # Errors
    /// What the database says; `CommitUnknown` when nobody knows whether it is committed.
    pub async fn carry_out<F>(&self, work: F, journal: Journaling) -> Result<Transacted>
    where
        F: for<'t> FnOnce(&'t mut Transaction<'static>) -> BoxFuture<'t, Result<Json, Ended>>,
    {
        let source = self.current_source();
        let mut tx = match self.begin().await {
            Ok(tx) => tx,
            // Nothing has happened yet: that uses up no attempt.
            Err(error) => return Ok(Transacted::Ended(Ended::NotMade(error.to_string().into()))),
        };
        let output = match work(&mut tx).await {
            Ok(output) => output,
            Err(ended) => {
                // Should it fail, the connection is gone, and with it the transaction.
                let _ = tx.rollback().await;
                return Ok(Transacted::Ended(ended));
            }
        };
        let mut emitted = Vec::new();
        let item = journal(output)?;
        match commit::write(&mut tx, &self.terms(&source), &item, &mut emitted).await {
            Ok(count) => {
                emit::emit_all(&mut tx, &emitted).await?;
                commit::finish_work(tx, self.options().sabotage).await.map_err(counted)?;
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

/// What ended the transaction may do so each time: it is no wait for somebody else, and uses up an attempt.
fn counted(error: Error) -> Error {
    match error.code() {
        Code::StoreBusy => Error::new(Code::HandlerFailed, error.context().to_owned()),
        _ => error,
    }
}

//! What a database client does for the inbox within one open transaction.
//!
//! Nothing here decides anything: that is done by [`super::Claim`], and in what order by
//! [`super::Course`], [`super::redrive`] and [`super::count`]. Dropped before its commit, a session undoes
//! everything. Its futures need not be `Send`: a client that is asynchronous has such futures all the same,
//! and one that blocks has futures that are ready at once ([`at_once`]).

use std::{
    collections::BTreeSet,
    pin::pin,
    task::{Context, Poll, Waker},
};

use super::{Lane, LaneState, Statement};
use crate::{
    Code, Error, Record, Result, Text,
    parking::{ParkedKey, ParkedRecord, Request},
};

/// The receiver's rows, in one open transaction.
#[expect(
    async_fn_in_trait,
    reason = "whoever boxes the future knows the client, and so whether it is Send"
)]
pub trait Rows: Sized {
    /// The stored states of `lanes`, an empty one where there is no row, locked against others until the
    /// transaction ends.
    async fn states(&mut self, lanes: &BTreeSet<Lane>) -> Result<Vec<(Lane, LaneState)>>;

    /// Writes states of lanes whose rows are locked.
    async fn write(&mut self, changed: &[(&Lane, &LaneState)]) -> Result<()>;

    /// Commits, if the transaction is still the one that was begun.
    ///
    /// # Errors
    /// [`Code::CommitUnknown`] when nobody knows whether it is committed; with any other it is not.
    async fn commit(self) -> Result<()>;
}

/// What goes on around handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Begin a savepoint before a handler.
    Savepoint,
    /// Keep what was written since.
    Release,
    /// Undo what was written, and emitted, since.
    RollBack,
}

/// One consumer's transaction: rows, ids, parked keys, and the user's handler.
#[expect(
    async_fn_in_trait,
    reason = "whoever boxes the future knows the client, and so whether it is Send"
)]
pub trait Session: Rows {
    /// Whether a handler's fault may show when it is over: at a later statement, or at the commit. Then a
    /// batch that fails that way is handled again with savepoints, which tell whose fault it is.
    const FAULTS_SHOW_LATER: bool;

    /// Whether any key of the consumer is parked. Asked once, when the lanes are locked.
    async fn any_parked(&mut self) -> Result<bool>;

    /// Runs a statement.
    async fn execute(&mut self, statement: Statement<'_>) -> Result<u64>;

    /// Begins or ends a savepoint.
    async fn act(&mut self, act: Act) -> Result<()>;

    /// Runs the user's handler; why it refused ([`super::caught`], [`super::refusal`]).
    ///
    /// # Errors
    /// Trouble with the database, which is not the event's fault, and fails the batch.
    async fn run(&mut self, record: &Record, redriven: bool) -> Result<Option<Text>>;

    /// What a handler overlooked that said it was done: a statement that failed, an event that is owed.
    async fn overlooked(&mut self) -> Result<Option<Text>> {
        Ok(None)
    }

    /// Without a savepoint: whether it takes one to tell what this handler is to blame for.
    async fn is_unclear(&mut self, _refused: bool) -> Result<bool> {
        Ok(false)
    }

    /// Writes what handlers emitted, and commits.
    ///
    /// # Errors
    /// As [`Rows::commit`].
    async fn finish(self) -> Result<()>;

    /// Undoes everything. The next session must not wait for its locks.
    async fn undo(self) -> Result<()> {
        Ok(())
    }

    /// What is asked for a parked key now, locked until the transaction ends (`None` when it is not parked),
    /// and its front record.
    async fn parked(&mut self, key: &ParkedKey) -> Result<(Option<Request>, Option<ParkedRecord>)>;
}

/// The result of work on a client that blocks: its futures are ready when they are asked first.
///
/// # Errors
/// What the work says; [`Code::Stopped`] if it waited for something, which such a client never does.
pub fn at_once<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(Error::new(Code::Stopped, "a client that blocks has to wait")),
    }
}

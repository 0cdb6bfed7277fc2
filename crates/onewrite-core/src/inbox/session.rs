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

use super::{Care, Lane, LaneState, Verdict};
use crate::{
    Code, Error, Record, Result, Sequence, Text,
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

    /// Emits what was emitted and commits, if the transaction is still the one that was begun.
    ///
    /// # Errors
    /// [`Code::CommitUnknown`] when nobody knows whether it is committed; with any other it is not.
    async fn commit(self) -> Result<()>;
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

    /// Whether any key of the consumer is parked. Asked once, after the lanes are locked.
    async fn any_parked(&mut self) -> Result<bool>;

    /// Inserts a record's id among those seen; whether it was new.
    async fn remember(&mut self, record: &Record) -> Result<bool>;

    /// Deletes it again.
    async fn forget(&mut self, record: &Record) -> Result<()>;

    /// Whether a record's key is parked. Locks it if so: a re-drive that would free it waits.
    async fn is_parked(&mut self, record: &Record) -> Result<bool>;

    /// Appends a record to its key's parked ones, and says why.
    async fn park(&mut self, record: &Record, reason: &str) -> Result<()>;

    /// Runs the user's handler.
    ///
    /// # Errors
    /// Trouble with the database, which is not the event's fault, and fails the batch.
    async fn handle(&mut self, record: &Record, redriven: bool, care: Care) -> Result<Verdict>;

    /// Undoes everything. The next session must not wait for its locks.
    async fn undo(self) -> Result<()> {
        Ok(())
    }

    /// What is asked for a parked key now, locked until the transaction ends; `None` when it is not parked.
    async fn requested(&mut self, key: &ParkedKey) -> Result<Option<Request>>;

    /// The front record of a parked key that is locked.
    async fn front(&mut self, key: &ParkedKey) -> Result<Option<ParkedRecord>>;

    /// Lets a key wait for an operator again, and says why.
    async fn wait_again(&mut self, key: &ParkedKey, reason: &Text) -> Result<()>;

    /// Removes the front record of a key, and the key with its last one. Returns how many still wait.
    async fn unpark(&mut self, key: &ParkedKey, position: Sequence) -> Result<u64>;
}

/// What the handlers of an asynchronous client run between; see [`super::in_savepoint`].
#[expect(
    async_fn_in_trait,
    reason = "whoever boxes the future knows the client, and so whether it is Send"
)]
pub trait Savepoints {
    /// Begins a savepoint.
    async fn savepoint(&mut self) -> Result<()>;

    /// Keeps what was written since.
    async fn release(&mut self) -> Result<()>;

    /// Undoes what was written, and emitted, since.
    async fn roll_back(&mut self) -> Result<()>;

    /// Runs the user's handler; why it refused ([`super::caught`], [`super::refusal`]).
    async fn run(&mut self, record: &Record, redriven: bool) -> Result<Option<Text>>;

    /// What the handler overlooked that said it was done: a statement that failed, an event that is owed.
    async fn overlooked(&mut self) -> Result<Option<Text>> {
        Ok(None)
    }

    /// Without a savepoint: whether it takes one to tell what this handler is to blame for.
    async fn is_unclear(&mut self, _refused: bool) -> Result<bool> {
        Ok(false)
    }
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

//! The transactions of an inbox: one that counts, and one that handles.

use std::collections::BTreeSet;

use mysql_async::{Conn, Transaction, TxOpts};
use onewrite_core::{
    Code, Error, Event, Record, Result, Text, failpoint,
    inbox::{Act, Lane, LaneState, Policy, Received, Rows, Session, Statement},
    parking::{ParkedKey, ParkedRecord, Request},
};

use super::lanes::{forget, lock_lanes, move_marks, remember};
use crate::{
    commit::{self, Tx},
    emit,
    error::{While, after_commit},
    parking,
};

/// A transaction of the engine.
pub(super) struct Counting<'a> {
    tx: Transaction<'a>,
    policy: &'a Policy,
}

impl<'a> Counting<'a> {
    pub(super) async fn begin(conn: &'a mut Conn, policy: &'a Policy) -> Result<Self> {
        let tx = conn.start_transaction(TxOpts::default()).await.during("count attempts")?;
        Ok(Self { tx, policy })
    }
}

impl Rows for Counting<'_> {
    async fn states(&mut self, lanes: &BTreeSet<Lane>) -> Result<Vec<(Lane, LaneState)>> {
        lock_lanes(&mut self.tx, self.policy, lanes).await
    }

    async fn write(&mut self, changed: &[(&Lane, &LaneState)]) -> Result<()> {
        move_marks(&mut self.tx, self.policy, changed).await
    }

    async fn commit(self) -> Result<()> {
        self.tx.commit().await.map_err(after_commit)
    }
}

/// The transaction of a client, with the handler that its user wrote for it.
pub(crate) trait Handles: Tx {
    type Handler: ?Sized;

    /// Runs it; why it refused. What it emits goes to the events.
    async fn run(
        &mut self,
        handler: &Self::Handler,
        received: Received<'_>,
        events: &mut Emitted,
    ) -> Result<Option<Text>>;
}

/// Events to emit when the transaction ends.
#[derive(Default)]
pub(crate) struct Emitted {
    pub(crate) events: Vec<Event>,
    pub(crate) bytes_max: usize,
}

impl Emitted {
    /// Adds one, as caused by what was received. Returns its id.
    pub(crate) fn push(&mut self, event: Event, received: Received<'_>) -> Result<Text> {
        let mut event = event.caused_by(received.event());
        event.check(self.bytes_max)?;
        let id = event.id.get_or_insert_with(emit::new_id).clone();
        emit::check(&event, &id)?;
        self.events.push(event);
        Ok(id)
    }
}

/// A transaction in which handlers run.
pub(crate) struct Work<'a, T: Handles> {
    tx: T,
    policy: &'a Policy,
    handler: &'a T::Handler,
    scope: Text,
    emitted: Emitted,
    /// How many there were before the handler at hand.
    before: usize,
}

impl<'a, T: Handles> Work<'a, T> {
    pub(crate) fn new(
        tx: T,
        policy: &'a Policy,
        handler: &'a T::Handler,
        bytes_max: usize,
    ) -> Self {
        let emitted = Emitted { bytes_max, ..Emitted::default() };
        Self { tx, policy, handler, scope: policy.scope(), emitted, before: 0 }
    }
}

impl<T: Handles> Rows for Work<'_, T> {
    async fn states(&mut self, lanes: &BTreeSet<Lane>) -> Result<Vec<(Lane, LaneState)>> {
        lock_lanes(&mut self.tx, self.policy, lanes).await
    }

    async fn write(&mut self, changed: &[(&Lane, &LaneState)]) -> Result<()> {
        move_marks(&mut self.tx, self.policy, changed).await
    }

    async fn commit(self) -> Result<()> {
        commit::finish_work(self.tx, self.policy.sabotage).await
    }
}

impl<T: Handles> Session for Work<'_, T> {
    const FAULTS_SHOW_LATER: bool = false;

    async fn any_parked(&mut self) -> Result<bool> {
        parking::any(&mut self.tx, &self.scope).await
    }

    async fn execute(&mut self, statement: Statement<'_>) -> Result<u64> {
        let (tx, scope) = (&mut self.tx, &*self.scope);
        match statement {
            Statement::Remember(record) => remember(tx, self.policy, record).await,
            Statement::Forget(record) => forget(tx, self.policy, record).await,
            Statement::LookParked(record) => parking::is_parked(tx, scope, record).await,
            Statement::ParkRecord(record) => parking::park_record(tx, scope, record).await,
            Statement::ParkKey(record, why) => parking::park_key(tx, scope, record, why).await,
            Statement::WaitAgain(key, why) => {
                parking::request(tx, scope, names(key), Request::Wait, Some(why)).await
            }
            Statement::Unpark(key, at) => parking::remove(tx, scope, names(key), at).await,
            Statement::CountLeft(key) => parking::count_left(tx, scope, names(key)).await,
            Statement::Free(key) => parking::free(tx, scope, names(key)).await,
        }
    }

    async fn act(&mut self, act: Act) -> Result<()> {
        match act {
            Act::Savepoint => self.tx.text(commit::SAVEPOINT, "begin a savepoint").await.map(drop),
            // The next one takes its place.
            Act::Release => Ok(()),
            Act::RollBack => {
                self.emitted.events.truncate(self.before);
                // Not there any more: the transaction is not the one that it was.
                let gone = |error: Error| {
                    Error::new(Code::StoreBusy, error.context().to_owned()).with_source(error)
                };
                let undone = self.tx.text(commit::ROLL_BACK, "roll back to a savepoint").await;
                undone.map(drop).map_err(gone)
            }
        }
    }

    async fn run(&mut self, record: &Record, redriven: bool) -> Result<Option<Text>> {
        self.before = self.emitted.events.len();
        let received = Received::new(record, redriven);
        self.tx.run(self.handler, received, &mut self.emitted).await
    }

    async fn finish(mut self) -> Result<()> {
        emit::write_all(&mut self.tx, &self.emitted.events).await?;
        failpoint::hit("receiver.after_handler_before_commit");
        self.commit().await
    }

    async fn undo(self) -> Result<()> {
        self.tx.undo().await
    }

    async fn parked(&mut self, key: &ParkedKey) -> Result<(Option<Request>, Option<ParkedRecord>)> {
        let request = parking::requested(&mut self.tx, key).await?;
        Ok((request, parking::records(&mut self.tx, key, 1).await?.pop()))
    }
}

fn names(key: &ParkedKey) -> (&str, &str) {
    (&key.source, &key.key)
}

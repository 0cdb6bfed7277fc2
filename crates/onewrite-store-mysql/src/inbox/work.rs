//! The transactions of an inbox: one that counts, and one that handles.

use std::collections::BTreeSet;

use mysql_async::{Conn, Transaction, TxOpts, prelude::Queryable};
use onewrite_core::{
    Event, Record, Result, Sequence, Text, failpoint,
    inbox::{
        Care, Lane, LaneState, Policy, Rows, Savepoints, Session, Verdict, caught, coded,
        in_savepoint, refusal,
    },
    parking::{ParkedKey, ParkedRecord, Request},
};

use super::{
    MysqlInbox,
    context::Context,
    lanes::{forget, lock_lanes, move_marks, remember},
};
use crate::{
    commit, emit,
    error::{While, after_commit, code_of, told},
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

/// A transaction in which handlers run.
pub(super) struct Work<'a> {
    inbox: &'a MysqlInbox,
    policy: &'a Policy,
    scope: Text,
    tx: Transaction<'static>,
    /// Events to emit when it ends, and how many there were before the handler at hand.
    emitted: Vec<Event>,
    before: usize,
}

impl<'a> Work<'a> {
    pub(super) async fn begin(inbox: &'a MysqlInbox) -> Result<Self> {
        let (policy, tx) = (&inbox.options.policy, inbox.store.begin().await?);
        Ok(Self { inbox, policy, scope: policy.scope(), tx, emitted: Vec::new(), before: 0 })
    }
}

impl Rows for Work<'_> {
    async fn states(&mut self, lanes: &BTreeSet<Lane>) -> Result<Vec<(Lane, LaneState)>> {
        lock_lanes(&mut self.tx, self.policy, lanes).await
    }

    async fn write(&mut self, changed: &[(&Lane, &LaneState)]) -> Result<()> {
        move_marks(&mut self.tx, self.policy, changed).await
    }

    async fn commit(mut self) -> Result<()> {
        emit::emit_all(&mut self.tx, &self.emitted).await?;
        failpoint::hit("receiver.after_handler_before_commit");
        commit::finish_work(self.tx).await
    }
}

impl Session for Work<'_> {
    const FAULTS_SHOW_LATER: bool = false;

    async fn any_parked(&mut self) -> Result<bool> {
        parking::any(&mut self.tx, &self.scope).await
    }

    async fn remember(&mut self, record: &Record) -> Result<bool> {
        remember(&mut self.tx, self.policy, record).await
    }

    async fn forget(&mut self, record: &Record) -> Result<()> {
        forget(&mut self.tx, self.policy, record).await.map(drop)
    }

    async fn is_parked(&mut self, record: &Record) -> Result<bool> {
        parking::is_parked(&mut self.tx, &self.scope, &record.source, record.event.order_key())
            .await
    }

    async fn park(&mut self, record: &Record, reason: &str) -> Result<()> {
        parking::park_record(&mut self.tx, &self.scope, record, reason).await
    }

    async fn handle(&mut self, record: &Record, redriven: bool, care: Care) -> Result<Verdict> {
        in_savepoint(self, record, redriven, care).await
    }

    async fn undo(self) -> Result<()> {
        self.tx.rollback().await.during("undo a batch")
    }

    async fn requested(&mut self, key: &ParkedKey) -> Result<Option<Request>> {
        parking::requested(&mut self.tx, key).await
    }

    async fn front(&mut self, key: &ParkedKey) -> Result<Option<ParkedRecord>> {
        parking::records(&mut self.tx, key, 1).await.map(|mut found| found.pop())
    }

    async fn wait_again(&mut self, key: &ParkedKey, reason: &Text) -> Result<()> {
        let names = (&*key.source, &*key.key);
        parking::request(&mut self.tx, &key.scope, names, Request::Wait, Some(reason))
            .await
            .map(drop)
    }

    async fn unpark(&mut self, key: &ParkedKey, position: Sequence) -> Result<u64> {
        parking::unpark(&mut self.tx, &key.scope, (&key.source, &key.key), position).await
    }
}

impl Savepoints for Work<'_> {
    async fn savepoint(&mut self) -> Result<()> {
        self.tx.query_drop(commit::SAVEPOINT).await.during("begin a savepoint")
    }

    /// The next one takes its place.
    async fn release(&mut self) -> Result<()> {
        Ok(())
    }

    async fn roll_back(&mut self) -> Result<()> {
        self.emitted.truncate(self.before);
        let undone = self.tx.query_drop(commit::ROLL_BACK).await;
        undone.map_err(commit::not_the_same)
    }

    async fn run(&mut self, record: &Record, redriven: bool) -> Result<Option<Text>> {
        self.before = self.emitted.len();
        let event_bytes_max = self.inbox.store.event_bytes_max();
        let (tx, emitted) = (&mut self.tx, &mut self.emitted);
        let mut context = Context { tx, record, redriven, event_bytes_max, emitted };
        let handled = caught((self.inbox.handler)(&mut context)).await;
        let refused = refusal(handled, |error| error.downcast_ref().map(code_of), told)?;
        Ok(refused.map(|reason| coded(&reason)))
    }
}

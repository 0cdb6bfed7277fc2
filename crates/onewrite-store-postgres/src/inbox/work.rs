//! The transactions of an inbox: one that counts, and one that handles.

use std::collections::BTreeSet;

use deadpool_postgres::{Client, Transaction};
use onewrite_core::{
    Code, Error, Event, Record, Result, Sequence, Text, failpoint,
    inbox::{
        Care, Lane, LaneState, Policy, Rows, Savepoints, Session, Verdict, caught, coded,
        in_savepoint, refusal,
    },
    parking::{ParkedKey, ParkedRecord, Request},
};
use tokio_postgres::error::SqlState;

use super::{
    PostgresInbox,
    context::Context,
    lanes::{forget, lock_lanes, move_marks, remember},
};
use crate::{
    commit, emit,
    error::{While, after_commit, code_of, told},
    parking, statement,
};

/// A transaction of the engine.
pub(super) struct Counting<'a> {
    tx: Transaction<'a>,
    policy: &'a Policy,
}

impl<'a> Counting<'a> {
    /// What a relaxed one counts is lost with the server, should the event bring that down.
    pub(super) async fn begin(
        client: &'a mut Client,
        policy: &'a Policy,
        relaxed: bool,
    ) -> Result<Self> {
        let tx = client.transaction().await.during("begin a transaction")?;
        if relaxed {
            tx.batch_execute(commit::RELAXED).await.during("count attempts")?;
        }
        Ok(Self { tx, policy })
    }
}

impl Rows for Counting<'_> {
    async fn states(&mut self, lanes: &BTreeSet<Lane>) -> Result<Vec<(Lane, LaneState)>> {
        lock_lanes(&self.tx, self.policy, lanes).await
    }

    async fn write(&mut self, changed: &[(&Lane, &LaneState)]) -> Result<()> {
        move_marks(&self.tx, self.policy, changed).await
    }

    async fn commit(self) -> Result<()> {
        self.tx.commit().await.map_err(after_commit)
    }
}

/// A transaction in which handlers run.
pub(super) struct Work<'a> {
    inbox: &'a PostgresInbox,
    policy: &'a Policy,
    scope: Text,
    tx: Transaction<'a>,
    /// Whether any table is guarded.
    guarded: bool,
    /// Events to append when it ends, and how many there were before the handler at hand.
    emitted: Vec<Event>,
    before: usize,
    /// What was emitted through SQL before the handler at hand.
    placing: Option<String>,
}

impl<'a> Work<'a> {
    pub(super) async fn begin(inbox: &'a PostgresInbox, client: &'a mut Client) -> Result<Self> {
        let tx = client.transaction().await.during("begin a transaction")?;
        let (policy, emitted) = (&inbox.options.policy, Vec::new());
        let scope = policy.scope();
        Ok(Self { inbox, policy, scope, tx, guarded: true, emitted, before: 0, placing: None })
    }

    fn has_emitted(&self) -> bool {
        self.emitted.len() > self.before
    }
}

impl Rows for Work<'_> {
    async fn states(&mut self, lanes: &BTreeSet<Lane>) -> Result<Vec<(Lane, LaneState)>> {
        lock_lanes(&self.tx, self.policy, lanes).await
    }

    async fn write(&mut self, changed: &[(&Lane, &LaneState)]) -> Result<()> {
        move_marks(&self.tx, self.policy, changed).await
    }

    async fn commit(self) -> Result<()> {
        if !self.emitted.is_empty() {
            emit::append(&self.tx, &self.emitted).await?;
        }
        failpoint::hit("receiver.after_handler_before_commit");
        commit::finish(self.tx).await
    }
}

impl Session for Work<'_> {
    const FAULTS_SHOW_LATER: bool = true;

    async fn any_parked(&mut self) -> Result<bool> {
        let (any_parked, guarded) = parking::circumstances(&self.tx, &self.scope).await?;
        self.guarded = guarded;
        Ok(any_parked)
    }

    async fn remember(&mut self, record: &Record) -> Result<bool> {
        remember(&self.tx, self.policy, record).await
    }

    async fn forget(&mut self, record: &Record) -> Result<()> {
        forget(&self.tx, self.policy, record).await.map(drop)
    }

    async fn is_parked(&mut self, record: &Record) -> Result<bool> {
        parking::is_parked(&self.tx, &self.scope, &record.source, record.event.order_key()).await
    }

    async fn park(&mut self, record: &Record, reason: &str) -> Result<()> {
        parking::park_record(&self.tx, &self.scope, record, reason).await
    }

    async fn handle(&mut self, record: &Record, redriven: bool, care: Care) -> Result<Verdict> {
        in_savepoint(self, record, redriven, care).await
    }

    async fn requested(&mut self, key: &ParkedKey) -> Result<Option<Request>> {
        parking::requested(&self.tx, key).await
    }

    async fn front(&mut self, key: &ParkedKey) -> Result<Option<ParkedRecord>> {
        parking::records(self.tx.client(), key, 1).await.map(|mut found| found.pop())
    }

    async fn wait_again(&mut self, key: &ParkedKey, reason: &Text) -> Result<()> {
        let names = (&*key.source, &*key.key);
        parking::request(&self.tx, &key.scope, names, Request::Wait, Some(reason)).await.map(drop)
    }

    async fn unpark(&mut self, key: &ParkedKey, position: Sequence) -> Result<u64> {
        parking::unpark(&self.tx, &key.scope, (&key.source, &key.key), position).await
    }
}

impl Savepoints for Work<'_> {
    async fn savepoint(&mut self) -> Result<()> {
        self.tx.batch_execute(statement::SAVEPOINT).await.during("begin a savepoint")?;
        let begun = self.tx.query_typed(statement::HANDLER_BEGINS, &[]).await;
        let begun = begun.during("begin a savepoint")?;
        self.placing = begun.first().and_then(|found| found.get(0));
        Ok(())
    }

    async fn release(&mut self) -> Result<()> {
        self.tx.batch_execute(statement::RELEASE).await.during("release a savepoint")
    }

    async fn roll_back(&mut self) -> Result<()> {
        self.emitted.truncate(self.before);
        self.tx.batch_execute(statement::ROLL_BACK).await.during("roll back to a savepoint")
    }

    async fn run(&mut self, record: &Record, redriven: bool) -> Result<Option<Text>> {
        self.before = self.emitted.len();
        let event_bytes_max = self.inbox.store.event_bytes_max();
        let (tx, emitted) = (&self.tx, &mut self.emitted);
        let mut context = Context { tx, record, redriven, event_bytes_max, emitted };
        let handled = caught((self.inbox.handler)(&mut context)).await;
        let refused = refusal(handled, |error| error.downcast_ref().map(code_of), told)?;
        Ok(refused.map(|reason| coded(&reason)))
    }

    async fn overlooked(&mut self) -> Result<Option<Text>> {
        let found = match self.tx.query_typed(statement::OWES, &[]).await {
            Err(error) if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {
                return Ok(Some(WENT_ON.into()));
            }
            found => found.during("look for changes without an event")?,
        };
        let Some(found) = found.first() else { return Ok(None) };
        // Emitted through SQL, it stands in the transaction's own list.
        let placing = found.get::<_, Option<&str>>(1);
        let has_emitted = self.has_emitted() || placing != self.placing.as_deref();
        Ok((!has_emitted && found.get(0)).then(owes_an_event))
    }

    async fn is_unclear(&mut self, refused: bool) -> Result<bool> {
        if refused {
            // In an aborted transaction every handler fails, whoever aborted it.
            return Ok(self.tx.batch_execute("SELECT 1").await.is_err());
        }
        if !self.guarded || self.has_emitted() {
            return Ok(false);
        }
        let found = self.tx.query_typed(statement::OWES, &[]).await;
        Ok(found.is_ok_and(|found| found.first().is_some_and(|found| found.get(0))))
    }
}

/// What is wrong with a handler that overlooked an error.
pub(crate) const WENT_ON: &str = "the handler went on after a statement had failed";

/// What is wrong with a handler that changed a guarded table.
pub(crate) fn owes_an_event() -> Text {
    let why = "the handler changed a guarded table and emitted no event";
    Error::new(Code::EventForgotten, why).to_string().into()
}

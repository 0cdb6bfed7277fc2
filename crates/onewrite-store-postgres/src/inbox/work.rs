//! The transactions of an inbox: one that counts, and one that handles.

use std::collections::BTreeSet;

use deadpool_postgres::{Client, Transaction};
use onewrite_core::{
    Code, Error, Event, Record, Result, Text, failpoint,
    inbox::{
        Act, Lane, LaneState, Policy, Received, Rows, Session, Statement, caught, coded, refusal,
    },
    parking::{ParkedKey, ParkedRecord, Request},
};
use tokio_postgres::error::SqlState;

use super::{
    PostgresInbox,
    context::Context,
    lanes::{lock_lanes, move_marks, run},
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

    async fn execute(&mut self, statement: Statement<'_>) -> Result<u64> {
        run(&self.tx, statement, (&self.policy.consumer, &self.scope)).await
    }

    async fn act(&mut self, act: Act) -> Result<()> {
        let tx = &self.tx;
        match act {
            Act::Savepoint => {
                tx.batch_execute(statement::SAVEPOINT).await.during("begin a savepoint")?;
                let begun = tx.query_typed(statement::HANDLER_BEGINS, &[]).await;
                let begun = begun.during("begin a savepoint")?;
                self.placing = begun.first().and_then(|found| found.get(0));
                Ok(())
            }
            Act::Release => {
                tx.batch_execute(statement::RELEASE).await.during("release a savepoint")
            }
            Act::RollBack => {
                self.emitted.truncate(self.before);
                let undone = tx.batch_execute(statement::ROLL_BACK).await;
                undone.during("roll back to a savepoint")
            }
        }
    }

    async fn run(&mut self, record: &Record, redriven: bool) -> Result<Option<Text>> {
        self.before = self.emitted.len();
        let event_bytes_max = self.inbox.store.event_bytes_max();
        let (tx, emitted) = (&self.tx, &mut self.emitted);
        let received = Received::new(record, redriven);
        let mut context = Context { tx, received, event_bytes_max, emitted };
        let handled = caught(|| (self.inbox.handler)(&mut context)).await;
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

    async fn finish(self) -> Result<()> {
        if !self.emitted.is_empty() {
            emit::append(&self.tx, &self.emitted).await?;
        }
        failpoint::hit("receiver.after_handler_before_commit");
        self.commit().await
    }

    async fn parked(&mut self, key: &ParkedKey) -> Result<(Option<Request>, Option<ParkedRecord>)> {
        let request = parking::requested(&self.tx, key).await?;
        Ok((request, parking::records(self.tx.client(), key, 1).await?.pop()))
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

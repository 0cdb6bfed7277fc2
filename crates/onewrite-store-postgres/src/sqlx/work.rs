//! A transaction in which handlers run, on a connection of the user's pool.

use std::collections::BTreeSet;

use onewrite_core::{
    Record, Result, Text, failpoint,
    inbox::{
        Act, Inbox as _, Lane, LaneState, Policy, Received, Rows, Session, Statement, caught,
        refusal,
    },
    parking::{ParkedKey, ParkedRecord, Request},
};
use sqlx::{Postgres, Row as _, Transaction};

use super::{
    SqlxContext, SqlxInbox, after_commit, code_of, failed,
    rows::{bound, lock_lanes, move_marks, run},
};
use crate::{
    inbox::{WENT_ON, owes_an_event},
    parking, statement,
};

pub(super) struct Work<'a> {
    inbox: &'a SqlxInbox,
    policy: &'a Policy,
    scope: Text,
    tx: Transaction<'static, Postgres>,
    /// What was emitted before the handler at hand.
    placing: Option<String>,
}

impl<'a> Work<'a> {
    pub(super) async fn begin(inbox: &'a SqlxInbox) -> Result<Self> {
        // Whatever the pool's default is: marks are read again once their lock is held.
        let begun = inbox.pool.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await;
        let (policy, tx) = (inbox.policy(), begun.map_err(failed("begin a transaction"))?);
        Ok(Self { inbox, policy, scope: policy.scope(), tx, placing: None })
    }
}

impl Rows for Work<'_> {
    async fn states(&mut self, lanes: &BTreeSet<Lane>) -> Result<Vec<(Lane, LaneState)>> {
        lock_lanes(&mut self.tx, self.policy, lanes).await
    }

    async fn write(&mut self, changed: &[(&Lane, &LaneState)]) -> Result<()> {
        move_marks(&mut self.tx, self.policy, changed).await
    }

    /// Commits what must not be lost, and notices a transaction that was aborted: COMMIT would roll it back.
    async fn commit(mut self) -> Result<()> {
        let durable = sqlx::query(statement::DURABLE).execute(&mut *self.tx).await;
        durable.map_err(failed("make the commit durable"))?;
        self.tx.commit().await.map_err(after_commit)
    }
}

impl Session for Work<'_> {
    /// Each handler runs in a savepoint.
    const FAULTS_SHOW_LATER: bool = false;

    async fn any_parked(&mut self) -> Result<bool> {
        let asked = bound(statement::CIRCUMSTANCES, [(&*self.scope).into()]);
        let found = asked.fetch_one(&mut *self.tx).await;
        found.map(|found| found.get(0)).map_err(failed("look for parked keys"))
    }

    async fn execute(&mut self, statement: Statement<'_>) -> Result<u64> {
        run(&mut self.tx, statement, (&self.policy.consumer, &self.scope)).await
    }

    async fn act(&mut self, act: Act) -> Result<()> {
        let (sql, context) = match act {
            Act::Savepoint => (statement::SAVEPOINT, "begin a savepoint"),
            Act::Release => (statement::RELEASE, "release a savepoint"),
            Act::RollBack => (statement::ROLL_BACK, "roll back to a savepoint"),
        };
        sqlx::raw_sql(sql).execute(&mut *self.tx).await.map_err(failed(context))?;
        if act == Act::Savepoint {
            let begun = sqlx::query(statement::HANDLER_BEGINS).fetch_one(&mut *self.tx).await;
            self.placing = begun.map_err(failed(context))?.get(0);
        }
        Ok(())
    }

    async fn run(&mut self, record: &Record, redriven: bool) -> Result<Option<Text>> {
        let received = Received::new(record, redriven);
        let mut context = SqlxContext { tx: &mut self.tx, received };
        let handled = caught(|| (self.inbox.handler)(&mut context)).await;
        refusal(handled, |error| error.downcast_ref().map(code_of), ToString::to_string)
    }

    async fn overlooked(&mut self) -> Result<Option<Text>> {
        match sqlx::query(statement::OWES).fetch_one(&mut *self.tx).await {
            Ok(found) => {
                let owes = found.get(0) && found.get::<Option<String>, _>(1) == self.placing;
                Ok(owes.then(owes_an_event))
            }
            // In an aborted transaction every statement fails.
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("25P02") => {
                Ok(Some(WENT_ON.into()))
            }
            Err(error) => Err(failed("look for changes without an event")(error)),
        }
    }

    async fn finish(self) -> Result<()> {
        failpoint::hit("receiver.after_handler_before_commit");
        self.commit().await
    }

    /// Under the key's lock nobody else takes its front away, so any connection will do to read it.
    async fn parked(&mut self, key: &ParkedKey) -> Result<(Option<Request>, Option<ParkedRecord>)> {
        let names = [&key.scope, &key.source, &key.key].map(|name| (&**name).into());
        let asked = bound(statement::REQUESTED, names).fetch_optional(&mut *self.tx).await;
        let asked = asked.map_err(failed("look at a parked key"))?;
        let client = self.inbox.store.engine().await?;
        let front = parking::records(&client, key, 1).await?.pop();
        Ok((asked.map(|row| Request::parse(row.get(0))), front))
    }
}

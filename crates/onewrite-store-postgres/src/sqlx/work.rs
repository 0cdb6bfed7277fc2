//! A transaction in which handlers run, on a connection of the user's pool.

use std::collections::BTreeSet;

use onewrite_core::{
    Record, Result, Sequence, Text, failpoint,
    inbox::{
        Care, Inbox as _, Lane, LaneState, Policy, Rows, Savepoints, Session, Verdict, caught,
        in_savepoint, refusal,
    },
    parking::{ParkedKey, ParkedRecord, Request},
};
use sqlx::{PgConnection, Postgres, Row as _, Transaction};

use super::{
    SqlxContext, SqlxInbox, after_commit, code_of, failed,
    rows::{any_row, execute, lock_lanes, move_marks, park, query, remember},
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
        failpoint::hit("receiver.after_handler_before_commit");
        execute(&mut self.tx, statement::DURABLE, &[], "make the commit durable").await?;
        self.tx.commit().await.map_err(after_commit)
    }
}

impl Session for Work<'_> {
    /// Each handler runs in a savepoint.
    const FAULTS_SHOW_LATER: bool = false;

    async fn any_parked(&mut self) -> Result<bool> {
        let asked = query(statement::CIRCUMSTANCES, &[&self.scope]).fetch_one(&mut *self.tx).await;
        Ok(asked.map_err(failed("look for parked keys"))?.get(0))
    }

    async fn remember(&mut self, record: &Record) -> Result<bool> {
        remember(&mut self.tx, self.policy, record).await
    }

    async fn forget(&mut self, record: &Record) -> Result<()> {
        let binds = [&*self.policy.consumer, &*record.source, record.id()];
        execute(&mut self.tx, statement::FORGET, &binds, "write").await.map(drop)
    }

    async fn is_parked(&mut self, record: &Record) -> Result<bool> {
        let binds = [&*self.scope, &*record.source, &**record.event.order_key()];
        any_row(&mut self.tx, statement::IS_PARKED, &binds).await
    }

    async fn park(&mut self, record: &Record, reason: &str) -> Result<()> {
        park(&mut self.tx, &self.scope, record, reason).await
    }

    async fn handle(&mut self, record: &Record, redriven: bool, care: Care) -> Result<Verdict> {
        in_savepoint(self, record, redriven, care).await
    }

    async fn requested(&mut self, key: &ParkedKey) -> Result<Option<Request>> {
        let asked = query(statement::REQUESTED, &names(key)).fetch_optional(&mut *self.tx).await;
        let asked = asked.map_err(failed("look at a parked key"))?;
        Ok(asked.map(|row| Request::parse(&row.get::<String, _>(0))))
    }

    /// Under the lock nobody else takes it away, so any connection will do.
    async fn front(&mut self, key: &ParkedKey) -> Result<Option<ParkedRecord>> {
        let client = self.inbox.store.engine().await?;
        parking::records(&client, key, 1).await.map(|mut found| found.pop())
    }

    async fn wait_again(&mut self, key: &ParkedKey, reason: &Text) -> Result<()> {
        let binds = [&*key.scope, &*key.key, Request::Wait.as_str(), reason, &*key.source];
        let what = "note a failed re-drive";
        execute(&mut self.tx, statement::REQUEST, &binds, what).await.map(drop)
    }

    async fn unpark(&mut self, key: &ParkedKey, position: Sequence) -> Result<u64> {
        let removing = sqlx::query(statement::UNPARK).bind(position.cast_signed());
        let removing =
            names(key).iter().fold(removing, |query, name| query.bind((*name).to_owned()));
        let removed = removing.execute(&mut *self.tx).await;
        removed.map_err(failed("remove a parked record"))?;
        let counted = query(statement::LEFT, &names(key)).fetch_one(&mut *self.tx).await;
        let left: i64 = counted.map_err(failed("count parked records"))?.get(0);
        if left == 0 {
            execute(&mut self.tx, statement::FREE, &names(key), "write").await?;
        }
        Ok(left.cast_unsigned())
    }
}

/// The first binds of most statements about a parked key.
fn names(key: &ParkedKey) -> [&str; 3] {
    [&*key.scope, &*key.source, &*key.key]
}

impl Savepoints for Work<'_> {
    async fn savepoint(&mut self) -> Result<()> {
        simple(&mut self.tx, statement::SAVEPOINT, "begin a savepoint").await?;
        let begun = sqlx::query(statement::HANDLER_BEGINS).fetch_one(&mut *self.tx).await;
        self.placing = begun.map_err(failed("begin a savepoint"))?.get(0);
        Ok(())
    }

    async fn release(&mut self) -> Result<()> {
        simple(&mut self.tx, statement::RELEASE, "release a savepoint").await
    }

    async fn roll_back(&mut self) -> Result<()> {
        simple(&mut self.tx, statement::ROLL_BACK, "roll back to a savepoint").await
    }

    async fn run(&mut self, record: &Record, redriven: bool) -> Result<Option<Text>> {
        let mut context = SqlxContext { tx: &mut self.tx, record, redriven };
        let handled = caught((self.inbox.handler)(&mut context)).await;
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
}

async fn simple(tx: &mut PgConnection, sql: &'static str, context: &'static str) -> Result<()> {
    sqlx::raw_sql(sql).execute(tx).await.map(drop).map_err(failed(context))
}

//! A transaction in which handlers run, on a connection of the user's pool.

use std::collections::BTreeSet;

use onewrite_core::{
    Record, Result, Sequence, Text, failpoint,
    inbox::{Act, Inbox as _, Lane, LaneState, Policy, Received, Rows, Session, caught, refusal},
    parking::{ParkedKey, ParkedRecord, Request},
};
use sqlx::{PgConnection, Postgres, Row as _, Transaction};

use super::{
    SqlxContext, SqlxInbox, after_commit, code_of, failed,
    rows::{execute, lock_lanes, move_marks, park, query},
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
        execute(&mut self.tx, statement::DURABLE, &[], "make the commit durable").await?;
        self.tx.commit().await.map_err(after_commit)
    }
}

impl Session for Work<'_> {
    /// Each handler runs in a savepoint.
    const FAULTS_SHOW_LATER: bool = false;

    async fn act(&mut self, act: Act<'_>) -> Result<u64> {
        let (tx, scope, consumer) = (&mut *self.tx, &*self.scope, &*self.policy.consumer);
        match act {
            Act::LookForParked => {
                let asked = query(statement::CIRCUMSTANCES, &[scope]).fetch_one(tx).await;
                asked
                    .map(|found| found.get::<bool, _>(0).into())
                    .map_err(failed("look for parked keys"))
            }
            Act::Remember(record) => {
                let binds = [consumer, &*record.source, record.id()];
                execute(tx, statement::REMEMBER, &binds, "write").await
            }
            Act::Forget(record) => {
                let binds = [consumer, &*record.source, record.id()];
                execute(tx, statement::FORGET, &binds, "write").await
            }
            Act::LookParked(record) => {
                let binds = [scope, &*record.source, &**record.event.order_key()];
                execute(tx, statement::IS_PARKED, &binds, "read").await
            }
            Act::Park(record, reason) => park(tx, scope, record, reason).await,
            Act::WaitAgain(key, reason) => {
                let binds = [scope, &*key.key, Request::Wait.as_str(), reason, &*key.source];
                execute(tx, statement::REQUEST, &binds, "note a failed re-drive").await
            }
            Act::Unpark(key, position) => unpark(tx, key, position).await,
            Act::Savepoint => {
                simple(tx, statement::SAVEPOINT, "begin a savepoint").await?;
                let begun = sqlx::query(statement::HANDLER_BEGINS).fetch_one(tx).await;
                self.placing = begun.map_err(failed("begin a savepoint"))?.get(0);
                Ok(0)
            }
            Act::Release => simple(tx, statement::RELEASE, "release a savepoint").await,
            Act::RollBack => simple(tx, statement::ROLL_BACK, "roll back to a savepoint").await,
        }
    }

    async fn run(&mut self, record: &Record, redriven: bool) -> Result<Option<Text>> {
        let received = Received::new(record, redriven);
        let mut context = SqlxContext { tx: &mut self.tx, received };
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

    async fn finish(self) -> Result<()> {
        failpoint::hit("receiver.after_handler_before_commit");
        self.commit().await
    }

    /// Under the key's lock nobody else takes its front away, so any connection will do to read it.
    async fn parked(&mut self, key: &ParkedKey) -> Result<(Option<Request>, Option<ParkedRecord>)> {
        let asked = query(statement::REQUESTED, &names(key)).fetch_optional(&mut *self.tx).await;
        let asked = asked.map_err(failed("look at a parked key"))?;
        let client = self.inbox.store.engine().await?;
        let front = parking::records(&client, key, 1).await?.pop();
        Ok((asked.map(|row| Request::parse(row.get(0))), front))
    }
}

/// The first binds of most statements about a parked key.
fn names(key: &ParkedKey) -> [&str; 3] {
    [&*key.scope, &*key.source, &*key.key]
}

async fn unpark(tx: &mut PgConnection, key: &ParkedKey, position: Sequence) -> Result<u64> {
    let removing = sqlx::query(statement::UNPARK).bind(position.cast_signed());
    let removing = names(key).iter().fold(removing, |query, name| query.bind((*name).to_owned()));
    removing.execute(&mut *tx).await.map_err(failed("remove a parked record"))?;
    let counted = query(statement::LEFT, &names(key)).fetch_one(&mut *tx).await;
    let left: i64 = counted.map_err(failed("count parked records"))?.get(0);
    if left == 0 {
        execute(tx, statement::FREE, &names(key), "write").await?;
    }
    Ok(left.cast_unsigned())
}

async fn simple(tx: &mut PgConnection, sql: &'static str, context: &'static str) -> Result<u64> {
    sqlx::raw_sql(sql).execute(tx).await.map(|_| 0).map_err(failed(context))
}

//! A transaction in which handlers run, on a connection of the user's pool.

use std::collections::BTreeSet;

use onewrite_core::{
    Code, Error, Record, Result, Sequence, Text, failpoint,
    inbox::{
        Care, Inbox as _, Lane, LaneState, Policy, Rows, Savepoints, Session, Verdict, caught,
        in_savepoint, refusal,
    },
    parking::{ParkedKey, ParkedRecord, Request},
};
use sqlx::{Row as _, Sqlite, SqliteConnection, Transaction};

use super::{
    SqlxContext, SqlxInbox, after_commit, code_of, failed,
    rows::{count, execute, lane_state, move_mark, park, query, remember},
};
use crate::{guard, parking, statement};

pub(super) struct Work<'a> {
    inbox: &'a SqlxInbox,
    policy: &'a Policy,
    scope: Text,
    tx: Transaction<'static, Sqlite>,
}

impl<'a> Work<'a> {
    /// Begins a transaction whose commit reaches the disk: what is accepted must not be lost.
    pub(super) async fn begin(inbox: &'a SqlxInbox) -> Result<Self> {
        let begun = inbox.pool.begin_with("BEGIN IMMEDIATE").await;
        let mut tx = begun.map_err(failed("begin a transaction"))?;
        let level = count(&mut tx, "SELECT synchronous FROM pragma_synchronous", &[]).await?;
        if level < 2 {
            return Err(Error::new(
                Code::UnsafeSetting,
                "the pool's connections run with `synchronous` below FULL: a power cut could undo what was accepted; set SqliteSynchronous::Full",
            ));
        }
        let policy = inbox.policy();
        Ok(Self { inbox, policy, scope: policy.scope(), tx })
    }
}

impl Rows for Work<'_> {
    async fn states(&mut self, lanes: &BTreeSet<Lane>) -> Result<Vec<(Lane, LaneState)>> {
        let mut states = Vec::with_capacity(lanes.len());
        for lane in lanes {
            states.push((lane.clone(), lane_state(&mut self.tx, self.policy, lane).await?));
        }
        Ok(states)
    }

    async fn write(&mut self, changed: &[(&Lane, &LaneState)]) -> Result<()> {
        for (lane, state) in changed {
            move_mark(&mut self.tx, self.policy, lane, state).await?;
        }
        Ok(())
    }

    async fn commit(self) -> Result<()> {
        failpoint::hit("receiver.after_handler_before_commit");
        self.tx.commit().await.map_err(after_commit)
    }
}

impl Session for Work<'_> {
    /// Each handler runs in a savepoint.
    const FAULTS_SHOW_LATER: bool = false;

    async fn any_parked(&mut self) -> Result<bool> {
        Ok(count(&mut self.tx, statement::ANY_PARKED, &[&self.scope]).await? > 0)
    }

    async fn remember(&mut self, record: &Record) -> Result<bool> {
        remember(&mut self.tx, self.policy, record).await
    }

    async fn forget(&mut self, record: &Record) -> Result<()> {
        let binds = [&*self.policy.consumer, &*record.source, record.id()];
        execute(&mut self.tx, statement::FORGET, &binds).await.map(drop)
    }

    async fn is_parked(&mut self, record: &Record) -> Result<bool> {
        let binds = [&*self.scope, &*record.source, &**record.event.order_key()];
        Ok(count(&mut self.tx, statement::IS_PARKED, &binds).await? > 0)
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

    /// This transaction has the file's write lock, so nobody else takes it away, and any connection will do.
    async fn front(&mut self, key: &ParkedKey) -> Result<Option<ParkedRecord>> {
        let wanted = key.clone();
        self.inbox.store.engine_read(move |db| parking::front(db, &wanted)).await
    }

    async fn wait_again(&mut self, key: &ParkedKey, reason: &Text) -> Result<()> {
        let binds = [&*key.scope, &*key.key, Request::Wait.as_str(), reason, &*key.source];
        execute(&mut self.tx, statement::REQUEST, &binds).await.map(drop)
    }

    async fn unpark(&mut self, key: &ParkedKey, position: Sequence) -> Result<u64> {
        let removing = sqlx::query(statement::UNPARK).bind(position.cast_signed());
        let removing =
            names(key).iter().fold(removing, |query, name| query.bind((*name).to_owned()));
        let removed = removing.execute(&mut *self.tx).await;
        removed.map_err(failed("remove a parked record"))?;
        let left = count(&mut self.tx, statement::LEFT, &names(key)).await?;
        if left == 0 {
            execute(&mut self.tx, statement::FREE, &names(key)).await?;
        }
        Ok(left.cast_unsigned())
    }
}

/// The binds of most statements about a parked key.
fn names(key: &ParkedKey) -> [&str; 3] {
    [&*key.scope, &*key.source, &*key.key]
}

impl Savepoints for Work<'_> {
    async fn savepoint(&mut self) -> Result<()> {
        simple(&mut self.tx, "SAVEPOINT onewrite", "begin a savepoint").await
    }

    async fn release(&mut self) -> Result<()> {
        simple(&mut self.tx, "RELEASE onewrite", "release a savepoint").await
    }

    async fn roll_back(&mut self) -> Result<()> {
        let undo = "ROLLBACK TO onewrite; RELEASE onewrite";
        simple(&mut self.tx, undo, "roll back to a savepoint").await
    }

    async fn run(&mut self, record: &Record, redriven: bool) -> Result<Option<Text>> {
        let mut context = SqlxContext { tx: &mut self.tx, record, redriven };
        let handled = caught((self.inbox.handler)(&mut context)).await;
        refusal(handled, |error| error.downcast_ref().map(code_of), ToString::to_string)
    }

    /// A debt it leaves.
    async fn overlooked(&mut self) -> Result<Option<Text>> {
        let debtor = sqlx::query(statement::DEBTOR).fetch_optional(&mut *self.tx).await;
        let debtor = debtor.map_err(failed("look for changes without an event"))?;
        Ok(debtor.map(|row| guard::forgotten(&row.get::<String, _>(0)).to_string().into()))
    }
}

async fn simple(tx: &mut SqliteConnection, sql: &'static str, context: &'static str) -> Result<()> {
    sqlx::raw_sql(sql).execute(tx).await.map(drop).map_err(failed(context))
}

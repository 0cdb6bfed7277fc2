//! A transaction in which handlers run, on a connection of the user's pool.

use std::collections::BTreeSet;

use onewrite_core::{
    Code, Error, Record, Result, Text, failpoint,
    inbox::{
        Act, Inbox as _, Lane, LaneState, Policy, Received, Rows, Session, Statement, caught,
        refusal,
    },
    parking::{ParkedKey, ParkedRecord, Request},
};
use sqlx::{Row as _, Sqlite, Transaction};

use super::{
    SqlxContext, SqlxInbox, after_commit, code_of, failed,
    rows::{bound, count, lane_state, move_mark, run},
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
        let level =
            count(&mut tx, sqlx::query("SELECT synchronous FROM pragma_synchronous")).await?;
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
        self.tx.commit().await.map_err(after_commit)
    }
}

impl Session for Work<'_> {
    /// Each handler runs in a savepoint.
    const FAULTS_SHOW_LATER: bool = false;

    async fn any_parked(&mut self) -> Result<bool> {
        let asked = bound(statement::ANY_PARKED, [(&*self.scope).into()]);
        Ok(count(&mut self.tx, asked).await? > 0)
    }

    async fn execute(&mut self, statement: Statement<'_>) -> Result<u64> {
        run(&mut self.tx, statement, (&self.policy.consumer, &self.scope)).await
    }

    async fn act(&mut self, act: Act) -> Result<()> {
        let (sql, context) = match act {
            Act::Savepoint => ("SAVEPOINT onewrite", "begin a savepoint"),
            Act::Release => ("RELEASE onewrite", "release a savepoint"),
            Act::RollBack => ("ROLLBACK TO onewrite; RELEASE onewrite", "roll back to a savepoint"),
        };
        sqlx::raw_sql(sql).execute(&mut *self.tx).await.map(drop).map_err(failed(context))
    }

    async fn run(&mut self, record: &Record, redriven: bool) -> Result<Option<Text>> {
        let received = Received::new(record, redriven);
        let mut context = SqlxContext { tx: &mut self.tx, received };
        let handled = caught(|| (self.inbox.handler)(&mut context)).await;
        refusal(handled, |error| error.downcast_ref().map(code_of), ToString::to_string)
    }

    /// A debt it leaves.
    async fn overlooked(&mut self) -> Result<Option<Text>> {
        let debtor = sqlx::query(statement::DEBTOR).fetch_optional(&mut *self.tx).await;
        let debtor = debtor.map_err(failed("look for changes without an event"))?;
        Ok(debtor.map(|row| guard::forgotten(&row.get::<String, _>(0)).to_string().into()))
    }

    async fn finish(self) -> Result<()> {
        failpoint::hit("receiver.after_handler_before_commit");
        self.commit().await
    }

    /// This transaction has the file's write lock, so nobody else takes the front away, and any connection will
    /// do to read it.
    async fn parked(&mut self, key: &ParkedKey) -> Result<(Option<Request>, Option<ParkedRecord>)> {
        let names = [&key.scope, &key.source, &key.key].map(|name| (&**name).into());
        let asked = bound(statement::REQUESTED, names).fetch_optional(&mut *self.tx).await;
        let asked = asked.map_err(failed("look at a parked key"))?;
        let wanted = key.clone();
        let front = self.inbox.store.engine_read(move |db| parking::front(db, &wanted)).await?;
        Ok((asked.map(|row| Request::parse(row.get(0))), front))
    }
}

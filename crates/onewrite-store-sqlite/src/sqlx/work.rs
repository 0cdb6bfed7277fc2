//! A transaction in which handlers run, on a connection of the user's pool.

use std::collections::BTreeSet;

use onewrite_core::{
    Code, Error, Record, Result, Sequence, Text, failpoint,
    inbox::{Act, Inbox as _, Lane, LaneState, Policy, Received, Rows, Session, caught, refusal},
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
        self.tx.commit().await.map_err(after_commit)
    }
}

impl Session for Work<'_> {
    /// Each handler runs in a savepoint.
    const FAULTS_SHOW_LATER: bool = false;

    async fn act(&mut self, act: Act<'_>) -> Result<u64> {
        let (tx, scope, consumer) = (&mut *self.tx, &*self.scope, &*self.policy.consumer);
        match act {
            Act::LookForParked => count(tx, statement::ANY_PARKED, &[scope]).await,
            Act::Remember(record) => remember(tx, consumer, record).await,
            Act::Forget(record) => {
                let binds = [consumer, &*record.source, record.id()];
                execute(tx, statement::FORGET, &binds).await
            }
            Act::LookParked(record) => {
                let binds = [scope, &*record.source, &**record.event.order_key()];
                count(tx, statement::IS_PARKED, &binds).await
            }
            Act::Park(record, reason) => park(tx, scope, record, reason).await,
            Act::WaitAgain(key, reason) => {
                let binds = [scope, &*key.key, Request::Wait.as_str(), reason, &*key.source];
                execute(tx, statement::REQUEST, &binds).await
            }
            Act::Unpark(key, position) => unpark(tx, key, position).await,
            Act::Savepoint => simple(tx, "SAVEPOINT onewrite", "begin a savepoint").await,
            Act::Release => simple(tx, "RELEASE onewrite", "release a savepoint").await,
            Act::RollBack => {
                let undo = "ROLLBACK TO onewrite; RELEASE onewrite";
                simple(tx, undo, "roll back to a savepoint").await
            }
        }
    }

    async fn run(&mut self, record: &Record, redriven: bool) -> Result<Option<Text>> {
        let received = Received::new(record, redriven);
        let mut context = SqlxContext { tx: &mut self.tx, received };
        let handled = caught((self.inbox.handler)(&mut context)).await;
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
        let asked = query(statement::REQUESTED, &names(key)).fetch_optional(&mut *self.tx).await;
        let asked = asked.map_err(failed("look at a parked key"))?;
        let wanted = key.clone();
        let front = self.inbox.store.engine_read(move |db| parking::front(db, &wanted)).await?;
        Ok((asked.map(|row| Request::parse(row.get(0))), front))
    }
}

/// The binds of most statements about a parked key.
fn names(key: &ParkedKey) -> [&str; 3] {
    [&*key.scope, &*key.source, &*key.key]
}

async fn unpark(tx: &mut SqliteConnection, key: &ParkedKey, position: Sequence) -> Result<u64> {
    let removing = sqlx::query(statement::UNPARK).bind(position.cast_signed());
    let removing = names(key).iter().fold(removing, |query, name| query.bind((*name).to_owned()));
    removing.execute(&mut *tx).await.map_err(failed("remove a parked record"))?;
    let left = count(tx, statement::LEFT, &names(key)).await?;
    if left == 0 {
        execute(tx, statement::FREE, &names(key)).await?;
    }
    Ok(left)
}

async fn simple(
    tx: &mut SqliteConnection,
    sql: &'static str,
    context: &'static str,
) -> Result<u64> {
    sqlx::raw_sql(sql).execute(tx).await.map(|_| 0).map_err(failed(context))
}

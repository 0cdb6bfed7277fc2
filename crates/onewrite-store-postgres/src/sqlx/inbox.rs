//! The inbox for handlers that write through `sqlx`, on a connection of the user's pool.

use std::{collections::BTreeSet, panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt as _;
use onewrite_core::{
    BoxFuture, Code, Delivery, Error, Event, Incarnation, Record, Result, Text,
    broker::{Mark, Receipt},
    failpoint,
    inbox::{
        Attempt, Claim, Effect, Fact, HandlerError, Inbox, InboxOptions, Lane, LaneState, Policy,
    },
    parking::{ParkedKey, Request},
};
use sqlx::{Connection as _, PgConnection, PgPool, Row as _};

use super::{after_commit, emit::emit, failed};
use crate::{PostgresInbox, PostgresStore, parking, row, statement};

/// What a handler is given: the event, and the transaction in which its reaction is committed.
pub struct SqlxContext<'a> {
    tx: &'a mut PgConnection,
    record: &'a Record,
}

impl SqlxContext<'_> {
    /// The open transaction: what is written here is committed together with the mark.
    pub fn tx(&mut self) -> &mut PgConnection {
        self.tx
    }

    /// What happened.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.record.event
    }

    /// What happened, with its place in the source's log.
    #[must_use]
    pub fn record(&self) -> &Record {
        self.record
    }

    /// Emits `event` as caused by this one: reacting and emitting are one commit.
    ///
    /// # Errors
    /// As [`super::emit`].
    pub async fn emit(&mut self, event: Event) -> Result<Text> {
        emit(self.tx, &event.caused_by(&self.record.event)).await
    }
}

type Handler = dyn for<'a, 'b> Fn(&'a mut SqlxContext<'b>) -> BoxFuture<'a, Result<(), HandlerError>>
    + Send
    + Sync;

/// A consumer's inbox whose handler writes through `sqlx`. Each handler runs in a savepoint.
pub struct SqlxInbox {
    /// Keeps the marks that are read and the attempts that are counted outside the transaction.
    inbox: PostgresInbox,
    store: PostgresStore,
    pool: PgPool,
    handler: Arc<Handler>,
}

impl SqlxInbox {
    /// An inbox in `store` whose `handler` runs for every event, once in effect, on a connection of
    /// `pool`, which must be open on the same database.
    ///
    /// # Errors
    /// As [`PostgresInbox::new`].
    pub fn new(
        store: &PostgresStore,
        pool: PgPool,
        options: InboxOptions,
        handler: impl for<'a, 'b> Fn(&'a mut SqlxContext<'b>) -> BoxFuture<'a, Result<(), HandlerError>>
        + Send
        + Sync
        + 'static,
    ) -> Result<Self> {
        let inbox = PostgresInbox::new(store, options, |_| {
            Box::pin(async { Err("this handler runs through sqlx".into()) })
        })?;
        Ok(Self { inbox, store: store.clone(), pool, handler: Arc::new(handler) })
    }

    async fn begin(&self) -> Result<sqlx::Transaction<'static, sqlx::Postgres>> {
        // Whatever the pool's default is: marks are read again once their lock is held.
        let begun = self.pool.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await;
        begun.map_err(failed("begin a transaction"))
    }

    /// Runs the machine for one batch in one transaction of the pool.
    async fn handle_batch(
        &self,
        deliveries: &[Delivery],
        attempts: &[Attempt],
    ) -> Result<Vec<Receipt>> {
        let policy = self.policy();
        let scope = policy.scope();
        let mut tx = self.begin().await?;
        let states = lock_lanes(&mut tx, policy, deliveries).await?;
        let any_parked = sqlx::query(statement::CIRCUMSTANCES)
            .bind(scope.to_string())
            .fetch_one(&mut *tx)
            .await
            .map_err(failed("look for parked keys"))?
            .get(0);
        let mut claim = Claim::new(policy, deliveries, attempts, states, any_parked);
        let mut fact = Fact::Begun;
        loop {
            fact = match claim.step(fact) {
                Effect::Remember(index) => {
                    Fact::Fresh(remember(&mut tx, policy, &deliveries[index].record).await?)
                }
                Effect::Forget(index) => {
                    let record = &deliveries[index].record;
                    let binds = [&*policy.consumer, &*record.source, record.id()];
                    execute(&mut tx, statement::FORGET, &binds).await?;
                    Fact::Forgotten
                }
                Effect::LookParked(index) => {
                    let record = &deliveries[index].record;
                    let binds = [&*scope, &*record.source, &**record.event.order_key()];
                    Fact::Parked(rows(&mut tx, statement::IS_PARKED, &binds).await? > 0)
                }
                Effect::Handle(index) => {
                    Fact::Handled(self.handle(&mut tx, &deliveries[index].record).await?)
                }
                Effect::Park(index, reason) => {
                    park(&mut tx, &scope, &deliveries[index].record, &reason).await?;
                    Fact::Stored
                }
                Effect::Done => break,
            };
        }
        let changed: Vec<_> = claim.changed().collect();
        move_marks(&mut tx, policy, &changed).await?;
        failpoint::hit("receiver.after_handler_before_commit");
        finish(tx).await?;
        Ok(claim.receipts())
    }

    /// Runs the handler in a savepoint. Its refusal is a verdict; an event it owes is one too.
    async fn handle(&self, tx: &mut PgConnection, record: &Record) -> Result<Option<Text>> {
        let mut savepoint = tx.begin().await.map_err(failed("begin a savepoint"))?;
        let placing: Option<String> = sqlx::query(statement::HANDLER_BEGINS)
            .fetch_one(&mut *savepoint)
            .await
            .map_err(failed("begin a savepoint"))?
            .get(0);
        let mut context = SqlxContext { tx: &mut savepoint, record };
        let handled = AssertUnwindSafe((self.handler)(&mut context)).catch_unwind().await;
        let refusal = match handled.unwrap_or_else(|_| Err("the handler panicked".into())) {
            Err(error) => match trouble(&*error) {
                Some(code) => {
                    let what = "the handler could not write";
                    return Err(Error::new(code, what).with_source(error.to_string()));
                }
                None => Some(error.to_string()),
            },
            Ok(()) => match sqlx::query(statement::OWES).fetch_one(&mut *savepoint).await {
                Ok(found) if found.get(0) && found.get::<Option<String>, _>(1) == placing => {
                    Some("OW0022: the handler changed a guarded table and emitted no event".into())
                }
                Ok(_) => None,
                // In an aborted transaction every statement fails.
                Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("25P02") => {
                    Some("the handler went on after a statement had failed".into())
                }
                Err(error) => return Err(failed("look for changes without an event")(error)),
            },
        };
        match refusal {
            None => savepoint.commit().await.map_err(failed("release a savepoint")).map(|()| None),
            Some(reason) => {
                savepoint.rollback().await.map_err(failed("roll back to a savepoint"))?;
                Ok(Some(reason.into()))
            }
        }
    }

    /// Carries out the request for the front record of a parked key, in one transaction.
    async fn redrive_front(&self, key: &ParkedKey) -> Result<Result<u64, Text>> {
        let mut tx = self.begin().await?;
        let names = [&*key.scope, &*key.source, &*key.key];
        // Locks the key: who parks behind it, or re-drives it as well, waits.
        let asked = names
            .iter()
            .fold(sqlx::query(statement::REQUESTED), |query, name| query.bind((*name).to_owned()))
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed("look at a parked key"))?;
        let request = asked.map_or(Request::Wait, |row| Request::parse(&row.get::<String, _>(0)));
        // Under the lock nobody else takes the front away.
        let client = self.store.engine().await?;
        let Some(front) = parking::records(&client, key, 1).await?.pop() else { return Ok(Ok(0)) };
        if request == Request::Wait {
            return Ok(Ok(key.waiting));
        }
        if request == Request::Retry
            && let Some(reason) = self.handle(&mut tx, &front.record).await?
        {
            sqlx::query(statement::REQUEST)
                .bind(key.scope.to_string())
                .bind(key.key.to_string())
                .bind(Request::Wait.as_str())
                .bind(reason.to_string())
                .bind(key.source.to_string())
                .execute(&mut *tx)
                .await
                .map_err(failed("note a failed re-drive"))?;
            finish(tx).await?;
            return Ok(Err(reason));
        }
        remember(&mut tx, self.policy(), &front.record).await?;
        sqlx::query(statement::UNPARK)
            .bind(front.position.cast_signed())
            .bind(key.scope.to_string())
            .bind(key.source.to_string())
            .bind(key.key.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed("remove a parked record"))?;
        let left = names
            .iter()
            .fold(sqlx::query(statement::LEFT), |query, name| query.bind((*name).to_owned()))
            .fetch_one(&mut *tx)
            .await
            .map_err(failed("count parked records"))?
            .get::<i64, _>(0);
        if left == 0 {
            execute(&mut tx, statement::FREE, &names).await?;
        }
        finish(tx).await?;
        Ok(Ok(left.cast_unsigned()))
    }
}

impl Inbox for SqlxInbox {
    fn policy(&self) -> &Policy {
        self.inbox.policy()
    }

    fn attempt(
        &self,
        attempts: Vec<Attempt>,
        again: bool,
    ) -> BoxFuture<'_, Result<Vec<(LaneState, bool)>>> {
        self.inbox.attempt(attempts, again)
    }

    fn receive(
        &self,
        deliveries: Vec<Delivery>,
        attempts: Vec<Attempt>,
    ) -> BoxFuture<'_, Result<Vec<Receipt>>> {
        Box::pin(async move { self.handle_batch(&deliveries, &attempts).await })
    }

    fn marks<'a>(&'a self, source: &'a str, life: Incarnation) -> BoxFuture<'a, Result<Vec<Mark>>> {
        self.inbox.marks(source, life)
    }

    fn requested(&self) -> BoxFuture<'_, Result<Vec<ParkedKey>>> {
        self.inbox.requested()
    }

    fn redrive(&self, key: ParkedKey) -> BoxFuture<'_, Result<Result<u64, Text>>> {
        Box::pin(async move { self.redrive_front(&key).await })
    }

    fn forget(&self) -> BoxFuture<'_, Result<u64>> {
        self.inbox.forget()
    }
}

async fn execute(tx: &mut PgConnection, sql: &'static str, texts: &[&str]) -> Result<u64> {
    let query = texts.iter().fold(sqlx::query(sql), |query, text| query.bind((*text).to_owned()));
    Ok(query.execute(tx).await.map_err(failed("write"))?.rows_affected())
}

async fn rows(tx: &mut PgConnection, sql: &'static str, texts: &[&str]) -> Result<usize> {
    let query = texts.iter().fold(sqlx::query(sql), |query, text| query.bind((*text).to_owned()));
    Ok(query.fetch_all(tx).await.map_err(failed("read"))?.len())
}

/// Commits what must not be lost, and notices a transaction that was aborted: COMMIT would roll it back.
async fn finish(mut tx: sqlx::Transaction<'static, sqlx::Postgres>) -> Result<()> {
    sqlx::query("SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'")
        .execute(&mut *tx)
        .await
        .map_err(failed("make the commit durable"))?;
    tx.commit().await.map_err(after_commit)
}

/// Whether a handler's error comes from the database itself, so that every event would fail.
fn trouble(error: &(dyn std::error::Error + 'static)) -> Option<Code> {
    let code = match (error.downcast_ref::<Error>(), error.downcast_ref::<sqlx::Error>()) {
        (Some(error), _) => error.code(),
        (_, Some(error)) => super::code_of(error),
        _ => return None,
    };
    crate::inbox::is_trouble(code).then_some(code)
}

async fn lock_lanes(
    tx: &mut PgConnection,
    policy: &Policy,
    deliveries: &[Delivery],
) -> Result<Vec<(Lane, LaneState)>> {
    let lanes: BTreeSet<Lane> = deliveries.iter().map(Lane::of).collect();
    let sources: Vec<String> = lanes.iter().map(|lane| lane.source.to_string()).collect();
    let lives: Vec<String> = lanes.iter().map(|lane| lane.incarnation.to_string()).collect();
    let partitions: Vec<i32> = lanes.iter().map(|lane| i32::from(lane.partition)).collect();
    let bound = |sql: &'static str| {
        sqlx::query(sql)
            .bind(policy.consumer.to_string())
            .bind(sources.clone())
            .bind(lives.clone())
            .bind(partitions.clone())
    };
    bound(statement::MAKE_LANES)
        .execute(&mut *tx)
        .await
        .map_err(failed("make the receiver's rows"))?;
    let found = bound(statement::LOCK_LANES)
        .fetch_all(&mut *tx)
        .await
        .map_err(failed("read the receiver's marks"))?;
    found
        .iter()
        .map(|row| {
            let number = |index: usize| row.get::<i64, _>(index).cast_unsigned();
            let lane = Lane {
                source: row.get::<String, _>(0).into(),
                incarnation: row.get::<String, _>(1).parse()?,
                partition: u16::try_from(row.get::<i32, _>(2)).unwrap_or(u16::MAX),
            };
            let state = LaneState {
                sequence: number(3),
                last_id: row.get::<String, _>(4).into(),
                attempt_first: number(5),
                attempts: u32::try_from(number(6)).unwrap_or(u32::MAX),
                redriven: number(7),
                gap: number(8),
            };
            Ok((lane, state))
        })
        .collect()
}

async fn move_marks(
    tx: &mut PgConnection,
    policy: &Policy,
    changed: &[(&Lane, &LaneState)],
) -> Result<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let texts = |pick: &dyn Fn(&Lane, &LaneState) -> String| -> Vec<String> {
        changed.iter().map(|(lane, state)| pick(lane, state)).collect()
    };
    let numbers = |pick: fn(&LaneState) -> u64| -> Vec<i64> {
        changed.iter().map(|(_, state)| pick(state).cast_signed()).collect()
    };
    sqlx::query(statement::MOVE_MARKS)
        .bind(policy.consumer.to_string())
        .bind(texts(&|lane, _| lane.source.to_string()))
        .bind(texts(&|lane, _| lane.incarnation.to_string()))
        .bind(changed.iter().map(|(lane, _)| i32::from(lane.partition)).collect::<Vec<_>>())
        .bind(numbers(|state| state.sequence))
        .bind(texts(&|_, state| state.last_id.to_string()))
        .bind(numbers(|state| state.attempt_first))
        .bind(numbers(|state| state.attempts.into()))
        .bind(numbers(|state| state.redriven))
        .bind(numbers(|state| state.gap))
        .execute(tx)
        .await
        .map(|_| ())
        .map_err(failed("move the receiver's marks"))
}

/// Insert first: whether the id is new is decided by the insert alone.
async fn remember(tx: &mut PgConnection, policy: &Policy, record: &Record) -> Result<bool> {
    let binds = [&*policy.consumer, &*record.source, record.id()];
    Ok(execute(tx, statement::REMEMBER, &binds).await? == 1)
}

async fn park(tx: &mut PgConnection, scope: &str, record: &Record, reason: &str) -> Result<()> {
    let event = &record.event;
    let option = |text: &Option<Text>| text.as_ref().map(ToString::to_string);
    sqlx::query(statement::PARK_RECORD)
        .bind(scope.to_owned())
        .bind(record.source.to_string())
        .bind(record.incarnation.to_string())
        .bind(record.sequence.cast_signed())
        .bind(i32::from(record.partition))
        .bind(event.time.map(|time| time.0))
        .bind(record.id().to_owned())
        .bind(event.kind.to_string())
        .bind(event.aggregate_type.to_string())
        .bind(event.aggregate_id.to_string())
        .bind(event.order_key().to_string())
        .bind(event.content_type.to_string())
        .bind(i64::from(event.schema_version))
        .bind(option(&event.source))
        .bind(option(&event.data_schema))
        .bind(option(&event.correlation_id))
        .bind(option(&event.causation_id))
        .bind(option(&event.user_id))
        .bind(option(&event.dedup_key))
        .bind(option(&event.traceparent))
        .bind(row::headers_to(&event.headers))
        .bind(event.data.to_vec())
        .execute(&mut *tx)
        .await
        .map_err(failed("park a record"))?;
    sqlx::query(statement::PARK_KEY)
        .bind(scope.to_owned())
        .bind(record.source.to_string())
        .bind(event.order_key().to_string())
        .bind(i32::from(record.partition))
        .bind(reason.to_owned())
        .execute(tx)
        .await
        .map(|_| ())
        .map_err(failed("park a key"))
}

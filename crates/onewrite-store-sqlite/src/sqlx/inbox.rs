//! The inbox for handlers that write through `sqlx`: asynchronous, on a connection of the user's pool.

use std::{collections::BTreeSet, panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt as _;
use onewrite_core::{
    BoxFuture, Code, Delivery, Error, Event, Incarnation, Record, Result, Text,
    broker::{Mark, Receipt},
    failpoint,
    inbox::{Attempt, Claim, Effect, Fact, Inbox, Lane, LaneState, Policy},
    parking::{ParkedKey, Request},
};
use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqliteConnection, SqlitePool};

use super::{emit::emit, failed};
use crate::{
    HandlerError, InboxOptions, Placed, SqliteInbox, SqliteStore, guard, parking, row, statement,
    writer::now,
};

/// What a handler is given: the event, and the transaction in which its reaction is committed.
pub struct SqlxContext<'a> {
    tx: &'a mut SqliteConnection,
    record: &'a Record,
}

impl SqlxContext<'_> {
    /// The open transaction: what is written here is committed together with the mark.
    pub fn tx(&mut self) -> &mut SqliteConnection {
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
    pub async fn emit(&mut self, event: Event) -> Result<Placed> {
        emit(self.tx, &event.caused_by(&self.record.event)).await
    }
}

type Handler = dyn for<'a, 'b> Fn(&'a mut SqlxContext<'b>) -> BoxFuture<'a, Result<(), HandlerError>>
    + Send
    + Sync;

/// A consumer's inbox whose handler writes through `sqlx`.
pub struct SqlxInbox {
    /// Keeps the marks that are read and the attempts that are counted outside the transaction.
    inbox: SqliteInbox,
    store: SqliteStore,
    pool: SqlitePool,
    handler: Arc<Handler>,
}

impl SqlxInbox {
    /// An inbox in `store` whose `handler` runs for every event, once in effect, on a connection of
    /// `pool`, which must be open on the same file.
    ///
    /// # Errors
    /// As [`SqliteInbox::new`].
    pub fn new(
        store: &SqliteStore,
        pool: SqlitePool,
        options: InboxOptions,
        handler: impl for<'a, 'b> Fn(&'a mut SqlxContext<'b>) -> BoxFuture<'a, Result<(), HandlerError>>
        + Send
        + Sync
        + 'static,
    ) -> Result<Self> {
        let inbox =
            SqliteInbox::new(store, options, |_| Err("this handler runs through sqlx".into()))?;
        Ok(Self { inbox, store: store.clone(), pool, handler: Arc::new(handler) })
    }

    /// Begins a transaction whose commit reaches the disk: what is accepted must not be lost.
    async fn begin(&self) -> Result<sqlx::Transaction<'static, sqlx::Sqlite>> {
        let mut tx =
            self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed("begin a transaction"))?;
        let level = count(&mut tx, "SELECT synchronous FROM pragma_synchronous", &[]).await?;
        if level < 2 {
            return Err(Error::new(
                Code::UnsafeSetting,
                "the pool's connections run with `synchronous` below FULL: a power cut could undo what was accepted; set SqliteSynchronous::Full",
            ));
        }
        Ok(tx)
    }

    /// Runs the machine for one batch in one transaction of the pool.
    async fn handle_batch(
        &self,
        deliveries: &[Delivery],
        attempts: &[Attempt],
    ) -> Result<Vec<Receipt>> {
        let policy = self.policy();
        let mut tx = self.begin().await?;
        let mut states = Vec::new();
        for lane in deliveries.iter().map(Lane::of).collect::<BTreeSet<_>>() {
            let state = lane_state(&mut tx, policy, &lane).await?;
            states.push((lane, state));
        }
        let scope = policy.scope();
        let any_parked: i64 = count(&mut tx, statement::ANY_PARKED, &[&scope]).await?;
        let mut claim = Claim::new(policy, deliveries, attempts, states, any_parked > 0);
        let mut fact = Fact::Begun;
        loop {
            fact = match claim.step(fact) {
                Effect::Remember(index) => {
                    Fact::Fresh(remember(&mut tx, policy, &deliveries[index].record).await?)
                }
                Effect::Forget(index) => {
                    let record = &deliveries[index].record;
                    execute(
                        &mut tx,
                        statement::FORGET,
                        &[&policy.consumer, &record.source, record.id()],
                    )
                    .await?;
                    Fact::Forgotten
                }
                Effect::LookParked(index) => {
                    let record = &deliveries[index].record;
                    let binds = [&*scope, &*record.source, &**record.event.order_key()];
                    Fact::Parked(count(&mut tx, statement::IS_PARKED, &binds).await? > 0)
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
        for (lane, state) in claim.changed() {
            move_mark(&mut tx, policy, lane, state).await?;
        }
        failpoint::hit("receiver.after_handler_before_commit");
        tx.commit().await.map_err(failed("commit"))?;
        Ok(claim.receipts())
    }

    /// Runs the handler in a savepoint. Its refusal is a verdict; a debt it leaves is one too.
    async fn handle(&self, tx: &mut SqliteConnection, record: &Record) -> Result<Option<Text>> {
        let mut savepoint = tx.begin().await.map_err(failed("begin a savepoint"))?;
        let mut context = SqlxContext { tx: &mut savepoint, record };
        let handled = AssertUnwindSafe((self.handler)(&mut context)).catch_unwind().await;
        let panicked = || Err("the handler panicked".into());
        let refusal = match handled.unwrap_or_else(|_| panicked()) {
            Err(error) => Some(error.to_string()),
            Ok(()) => {
                let debtor = sqlx::query(statement::DEBTOR).fetch_optional(&mut *savepoint).await;
                let debtor = debtor.map_err(failed("look for changes without an event"))?;
                debtor.map(|row| guard::forgotten(&row.get::<String, _>(0)).to_string())
            }
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
        let wanted = key.clone();
        let Some(front) = self.store.engine_read(move |db| parking::front(db, &wanted)).await?
        else {
            return Ok(Ok(0));
        };
        let mut tx = self.begin().await?;
        let names = [&*key.scope, &*key.source, &*key.key];
        let asked = names
            .iter()
            .fold(sqlx::query(statement::REQUESTED), |query, name| query.bind((*name).to_owned()));
        let asked = asked.fetch_optional(&mut *tx).await.map_err(failed("look at a parked key"))?;
        let request = asked.map_or(Request::Wait, |row| Request::parse(&row.get::<String, _>(0)));
        if request == Request::Wait {
            return Ok(Ok(key.waiting));
        }
        // Deleting decides: whoever deletes the row handles the record.
        let position = front.position.to_string();
        let taken = execute(
            &mut tx,
            "DELETE FROM onewrite_parked WHERE position = CAST(?1 AS INTEGER)",
            &[&position],
        )
        .await?;
        if taken == 0 {
            return Ok(Ok(key.waiting));
        }
        if request == Request::Retry
            && let Some(reason) = self.handle(&mut tx, &front.record).await?
        {
            tx.rollback().await.map_err(failed("roll back"))?;
            let (parked, said) = (key.clone(), reason.clone());
            self.store
                .engine_write(onewrite_core::store::Durability::Durable, move |tx| {
                    parking::request(
                        tx,
                        &parked.scope,
                        (&parked.source, &parked.key),
                        Request::Wait,
                        Some(&said),
                    )
                })
                .await?;
            return Ok(Err(reason));
        }
        remember(&mut tx, self.policy(), &front.record).await?;
        let left = count(
            &mut tx,
            "SELECT count(*) FROM onewrite_parked WHERE scope = ?1 AND origin = ?2 AND key = ?3",
            &names,
        )
        .await?;
        if left == 0 {
            execute(
                &mut tx,
                "DELETE FROM onewrite_parked_key WHERE scope = ?1 AND source = ?2 AND key = ?3",
                &names,
            )
            .await?;
        }
        tx.commit().await.map_err(failed("commit"))?;
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

async fn execute(tx: &mut SqliteConnection, sql: &'static str, texts: &[&str]) -> Result<u64> {
    let query = texts.iter().fold(sqlx::query(sql), |query, text| query.bind((*text).to_owned()));
    Ok(query.execute(tx).await.map_err(failed("write"))?.rows_affected())
}

async fn count(tx: &mut SqliteConnection, sql: &'static str, texts: &[&str]) -> Result<i64> {
    let query = texts.iter().fold(sqlx::query(sql), |query, text| query.bind((*text).to_owned()));
    query.fetch_one(tx).await.and_then(|row| row.try_get(0)).map_err(failed("count"))
}

async fn lane_state(tx: &mut SqliteConnection, policy: &Policy, lane: &Lane) -> Result<LaneState> {
    let found = sqlx::query(statement::LANE_STATE)
        .bind(policy.consumer.to_string())
        .bind(lane.source.to_string())
        .bind(lane.incarnation.to_string())
        .bind(lane.partition)
        .fetch_optional(tx)
        .await
        .map_err(failed("read the receiver's mark"))?;
    let Some(row) = found else { return Ok(LaneState::default()) };
    Ok(LaneState {
        sequence: row.get::<i64, _>(0).cast_unsigned(),
        last_id: row.get::<String, _>(1).into(),
        attempt_first: row.get::<i64, _>(2).cast_unsigned(),
        attempts: row.get(3),
        redriven: row.get::<i64, _>(4).cast_unsigned(),
        gap: row.get::<i64, _>(5).cast_unsigned(),
    })
}

async fn move_mark(
    tx: &mut SqliteConnection,
    policy: &Policy,
    lane: &Lane,
    state: &LaneState,
) -> Result<()> {
    sqlx::query(statement::MOVE_MARK)
        .bind(policy.consumer.to_string())
        .bind(lane.source.to_string())
        .bind(lane.incarnation.to_string())
        .bind(lane.partition)
        .bind(state.sequence.cast_signed())
        .bind(state.last_id.to_string())
        .bind(state.attempt_first.cast_signed())
        .bind(state.attempts)
        .bind(state.redriven.cast_signed())
        .bind(state.gap.cast_signed())
        .execute(tx)
        .await
        .map(|_| ())
        .map_err(failed("move the receiver's mark"))
}

/// Insert first: whether the id is new is decided by the insert alone.
async fn remember(tx: &mut SqliteConnection, policy: &Policy, record: &Record) -> Result<bool> {
    let inserted = sqlx::query(statement::REMEMBER)
        .bind(policy.consumer.to_string())
        .bind(record.source.to_string())
        .bind(record.id().to_owned())
        .bind(now().0)
        .execute(tx)
        .await
        .map_err(failed("remember an event's id"))?;
    Ok(inserted.rows_affected() == 1)
}

async fn park(tx: &mut SqliteConnection, scope: &str, record: &Record, reason: &str) -> Result<()> {
    let event = &record.event;
    let option = |text: &Option<Text>| text.as_ref().map(ToString::to_string);
    sqlx::query(AssertSqlSafe(statement::PARK_RECORD))
        .bind(scope.to_owned())
        .bind(record.source.to_string())
        .bind(record.incarnation.to_string())
        .bind(record.sequence.cast_signed())
        .bind(record.partition)
        .bind(event.time.unwrap_or_else(now).0)
        .bind(record.id().to_owned())
        .bind(event.kind.to_string())
        .bind(event.aggregate_type.to_string())
        .bind(event.aggregate_id.to_string())
        .bind(event.order_key().to_string())
        .bind(event.content_type.to_string())
        .bind(event.schema_version)
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
        .bind(record.partition)
        .bind(reason.to_owned())
        .bind(now().0)
        .execute(tx)
        .await
        .map(|_| ())
        .map_err(failed("park a key"))
}

//! The inbox on PostgreSQL: the handler runs in the transaction that moves the mark.

mod context;
mod lanes;

use std::{
    collections::{BTreeSet, HashMap},
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::Transaction;
use futures::FutureExt as _;
use onewrite_core::{
    BoxFuture, Code, Delivery, Error, Event, Incarnation, Record, Result, Text,
    broker::{Mark, Receipt},
    failpoint,
    inbox::{
        Attempt, Claim, Effect, Fact, HandlerError, Inbox, InboxOptions, Lane, LaneState, Policy,
    },
    parking::{ParkedKey, Request},
    sabotage::Defect,
};
use tokio_postgres::{Row, error::SqlState};

pub use self::context::Context;
use self::lanes::{forget, lock_lanes, move_marks, remember};
use crate::{
    PostgresStore, commit, emit,
    error::{While, after_commit, told},
    parking, row, statement,
};

/// Reacts to one event with writes on the transaction it is given.
type Handler = dyn for<'a, 'b> Fn(&'a mut Context<'b>) -> BoxFuture<'a, Result<(), HandlerError>>
    + Send
    + Sync;

/// A consumer's inbox with its handler.
pub struct PostgresInbox {
    store: PostgresStore,
    options: InboxOptions,
    handler: Arc<Handler>,
    /// The server was lost while a batch was handled: perhaps an event did it, so attempts are durable.
    wary: AtomicBool,
}

/// Whether each handler runs in a savepoint of its own. Savepoints are dear: two round trips each, and
/// many of them in one transaction slow the whole server down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Care {
    /// None: should one refuse, everything is undone and done again without that one.
    Bold,
    Savepoints,
}

/// Why a batch is handled again from its beginning.
enum Again {
    /// A handler refused in a transaction without savepoints; its verdict is known now.
    Known,
    /// Some handler went wrong in a way that only savepoints tell whose fault it is.
    Careful,
}

/// Verdicts of handlers that ran in a transaction that was undone.
type Verdicts = HashMap<usize, Text>;

/// So many handlers of a batch may refuse before each gets a savepoint.
const BOLD_MAX: usize = 3;

impl PostgresInbox {
    /// An inbox in `store` whose `handler` runs for every event, once in effect.
    ///
    /// # Errors
    /// [`Code::UnsafeSetting`] when ids would be forgotten while a sender may still repeat them.
    pub fn new(
        store: &PostgresStore,
        options: InboxOptions,
        handler: impl for<'a, 'b> Fn(&'a mut Context<'b>) -> BoxFuture<'a, Result<(), HandlerError>>
        + Send
        + Sync
        + 'static,
    ) -> Result<Self> {
        options.check()?;
        let (store, wary) = (store.clone(), AtomicBool::new(false));
        Ok(Self { store, options, handler: Arc::new(handler), wary })
    }

    /// Runs the machine for one batch in one transaction.
    async fn handle_batch(
        &self,
        deliveries: &[Delivery],
        attempts: &[Attempt],
        care: Care,
        verdicts: &mut Verdicts,
    ) -> Result<std::result::Result<Vec<Receipt>, Again>> {
        let policy = self.policy();
        let scope = policy.scope();
        let mut client = self.store.work().await?;
        let mut tx = client.transaction().await.during("begin a transaction")?;
        let lanes: BTreeSet<Lane> = deliveries.iter().map(Lane::of).collect();
        let states = if policy.sabotage.has(Defect::MarkBeforeEffect) {
            self.mark_first(deliveries, &lanes).await?
        } else {
            lock_lanes(&tx, policy, &lanes).await?
        };
        let (any_parked, guarded) = parking::circumstances(&tx, &scope).await?;
        let mut claim = Claim::new(policy, deliveries, attempts, states, any_parked);
        let mut emitted = Vec::new();
        let mut fact = Fact::Begun;
        loop {
            fact = match claim.step(fact) {
                Effect::Remember(index) => {
                    Fact::Fresh(remember(&tx, policy, &deliveries[index].record).await?)
                }
                Effect::Forget(index) => {
                    forget(&tx, policy, &deliveries[index].record).await?;
                    Fact::Forgotten
                }
                Effect::LookParked(index) => {
                    let record = &deliveries[index].record;
                    let key = record.event.order_key();
                    Fact::Parked(parking::is_parked(&tx, &scope, &record.source, key).await?)
                }
                Effect::Handle(index) if verdicts.contains_key(&index) => {
                    Fact::Handled(verdicts.get(&index).cloned())
                }
                Effect::Handle(index) => {
                    let record = &deliveries[index].record;
                    if care == Care::Bold {
                        match self.handle_boldly(&tx, record, guarded, &mut emitted).await? {
                            Ok(None) => {}
                            Ok(Some(reason)) => {
                                verdicts.insert(index, reason);
                                return Ok(Err(Again::Known));
                            }
                            Err(again) => return Ok(Err(again)),
                        }
                        Fact::Handled(None)
                    } else {
                        Fact::Handled(self.handle(&mut tx, record, false, &mut emitted).await?)
                    }
                }
                Effect::Park(index, reason) => {
                    parking::park_record(&tx, &scope, &deliveries[index].record, &reason).await?;
                    Fact::Stored
                }
                Effect::Done => break,
            };
        }
        let changed: Vec<_> = claim.changed().collect();
        move_marks(&tx, policy, &changed).await?;
        self.finish(tx, &emitted).await?;
        Ok(Ok(claim.receipts()))
    }

    /// Appends what was emitted and commits.
    async fn finish(&self, tx: Transaction<'_>, emitted: &[Event]) -> Result<()> {
        if !emitted.is_empty() {
            emit::append(&tx, emitted).await?;
        }
        failpoint::hit("receiver.after_handler_before_commit");
        commit::finish(tx).await
    }

    /// Runs the handler. Its refusal is a verdict; trouble with the database is not the event's fault and
    /// fails the batch.
    async fn handle(
        &self,
        tx: &mut Transaction<'_>,
        record: &Record,
        redriven: bool,
        emitted: &mut Vec<Event>,
    ) -> Result<Option<Text>> {
        let before = emitted.len();
        let savepoint = tx.savepoint("onewrite").await.during("begin a savepoint")?;
        let begun = savepoint.query_typed(statement::HANDLER_BEGINS, &[]).await;
        let begun = begun.during("begin a savepoint")?;
        let placing: Option<String> = begun.first().and_then(|found| found.get(0));
        let mut refusal = self.run(&savepoint, record, redriven, emitted).await?;
        if refusal.is_none() {
            refusal = overlooked(&savepoint, placing.as_deref(), emitted.len() > before).await?;
        }
        match refusal {
            None => savepoint.commit().await.during("release a savepoint").map(|()| None),
            Some(reason) => {
                savepoint.rollback().await.during("roll back to a savepoint")?;
                emitted.truncate(before);
                Ok(Some(reason))
            }
        }
    }

    /// Runs the handler without a savepoint.
    async fn handle_boldly(
        &self,
        tx: &Transaction<'_>,
        record: &Record,
        guarded: bool,
        emitted: &mut Vec<Event>,
    ) -> Result<std::result::Result<Option<Text>, Again>> {
        let before = emitted.len();
        let refusal = self.run(tx, record, false, emitted).await?;
        if refusal.is_some() {
            // In an aborted transaction every handler fails, whoever aborted it.
            let aborted = tx.batch_execute("SELECT 1").await.is_err();
            return Ok(if aborted { Err(Again::Careful) } else { Ok(refusal) });
        }
        if guarded && emitted.len() == before {
            let found = tx.query_typed(statement::OWES, &[]).await;
            let owes = found.is_ok_and(|found| found.first().is_some_and(|found| found.get(0)));
            return Ok(if owes { Err(Again::Careful) } else { Ok(None) });
        }
        Ok(Ok(None))
    }

    async fn run(
        &self,
        tx: &Transaction<'_>,
        record: &Record,
        redriven: bool,
        emitted: &mut Vec<Event>,
    ) -> Result<Option<Text>> {
        let event_bytes_max = self.store.event_bytes_max();
        let mut context = Context { tx, record, redriven, event_bytes_max, emitted };
        let handled = AssertUnwindSafe((self.handler)(&mut context)).catch_unwind().await;
        let Err(error) = handled.unwrap_or_else(|_| Err("the handler panicked".into())) else {
            return Ok(None);
        };
        if let Some(code) = database_trouble(&*error) {
            return Err(Error::new(code, "the handler could not write").with_source(told(&*error)));
        }
        Ok(Some(Error::new(Code::HandlerFailed, told(&*error)).to_string().into()))
    }

    /// Moves the marks before the effect, in a transaction of their own ([`Defect::MarkBeforeEffect`]).
    async fn mark_first(
        &self,
        deliveries: &[Delivery],
        lanes: &BTreeSet<Lane>,
    ) -> Result<Vec<(Lane, LaneState)>> {
        let policy = self.policy();
        let mut client = self.store.engine().await?;
        let tx = client.transaction().await.during("begin a transaction")?;
        let states = lock_lanes(&tx, policy, lanes).await?;
        let mut moved = Vec::new();
        for (lane, state) in &states {
            let last = deliveries.iter().rfind(|delivery| Lane::of(delivery) == *lane);
            let Some(record) = last.map(|delivery| &delivery.record) else { continue };
            if record.sequence > state.sequence {
                let last_id = record.event.id.clone().unwrap_or_default();
                moved.push((
                    lane,
                    LaneState { sequence: record.sequence, last_id, ..state.clone() },
                ));
            }
        }
        let changed: Vec<_> = moved.iter().map(|(lane, state)| (*lane, state)).collect();
        move_marks(&tx, policy, &changed).await?;
        tx.commit().await.map_err(after_commit)?;
        Ok(states)
    }

    /// Carries out the request for the front record: one transaction, so that a crash repeats or skips it
    /// as a whole.
    async fn redrive_front(&self, key: &ParkedKey) -> Result<Result<u64, Text>> {
        let mut client = self.store.work().await?;
        let mut tx = client.transaction().await.during("begin a transaction")?;
        // Locks the key: who parks behind it, or re-drives it as well, waits.
        let request = parking::requested(&tx, key).await?;
        let Some(front) = parking::records(tx.client(), key, 1).await?.pop() else {
            return Ok(Ok(0));
        };
        if !matches!(request, Some(Request::Retry | Request::Discard)) {
            return Ok(Ok(key.waiting));
        }
        let mut emitted = Vec::new();
        if request == Some(Request::Retry)
            && let Some(reason) = self.handle(&mut tx, &front.record, true, &mut emitted).await?
        {
            let names = (&*key.source, &*key.key);
            parking::request(&tx, &key.scope, names, Request::Wait, Some(&reason)).await?;
            self.finish(tx, &[]).await?;
            return Ok(Err(reason));
        }
        remember(&tx, self.policy(), &front.record).await?;
        let left =
            parking::unpark(&tx, &key.scope, (&key.source, &key.key), front.position).await?;
        self.finish(tx, &emitted).await?;
        Ok(Ok(left))
    }
}

impl Inbox for PostgresInbox {
    fn policy(&self) -> &Policy {
        &self.options.policy
    }

    fn attempt(
        &self,
        attempts: Vec<Attempt>,
        again: bool,
    ) -> BoxFuture<'_, Result<Vec<(LaneState, bool)>>> {
        Box::pin(async move {
            let policy = self.policy();
            let mut client = self.store.engine().await?;
            let tx = client.transaction().await.during("begin a transaction")?;
            // What is counted is lost with the server, should the event bring that down.
            if !self.wary.load(Ordering::Relaxed) {
                tx.batch_execute(commit::RELAXED).await.during("count attempts")?;
            }
            let lanes = attempts.iter().map(|attempt| attempt.lane.clone()).collect();
            let mut states = lock_lanes(&tx, policy, &lanes).await?;
            let mut counted = Vec::new();
            let mut changed = BTreeSet::new();
            for attempt in &attempts {
                let found = states.iter_mut().find(|(lane, _)| *lane == attempt.lane);
                let Some((lane, state)) = found else { continue };
                if policy.sabotage.has(Defect::NoAttempts) {
                    counted.push((state.clone(), true));
                    continue;
                }
                let was = state.claim(attempt.first, again);
                if was {
                    changed.insert(lane.clone());
                }
                counted.push((state.clone(), was));
            }
            let changed: Vec<_> = states
                .iter()
                .filter(|(lane, _)| changed.contains(lane))
                .map(|(lane, state)| (lane, state))
                .collect();
            move_marks(&tx, policy, &changed).await?;
            tx.commit().await.map_err(after_commit)?;
            Ok(counted)
        })
    }

    fn receive(
        &self,
        deliveries: Vec<Delivery>,
        attempts: Vec<Attempt>,
    ) -> BoxFuture<'_, Result<Vec<Receipt>>> {
        Box::pin(async move {
            let mut verdicts = Verdicts::new();
            let mut care = Care::Bold;
            loop {
                match self.handle_batch(&deliveries, &attempts, care, &mut verdicts).await {
                    Ok(Ok(receipts)) => {
                        self.wary.store(false, Ordering::Relaxed);
                        return Ok(receipts);
                    }
                    Ok(Err(Again::Known)) if verdicts.len() < BOLD_MAX => {}
                    Ok(Err(_)) => care = Care::Savepoints,
                    // A deferred constraint, or a statement whose failure a handler overlooked: it is
                    // found with savepoints.
                    Err(error) if care == Care::Bold && is_a_handlers(&error) => {
                        care = Care::Savepoints;
                    }
                    Err(error) => {
                        let lost =
                            matches!(error.code(), Code::StoreUnreachable | Code::CommitUnknown);
                        self.wary.fetch_or(lost, Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
        })
    }

    fn marks<'a>(&'a self, source: &'a str, life: Incarnation) -> BoxFuture<'a, Result<Vec<Mark>>> {
        Box::pin(async move {
            let client = self.store.engine().await?;
            let rows = client
                .query(
                    "SELECT partition, sequence, last_id FROM onewrite.inbox
                     WHERE consumer = $1 AND source = $2 AND incarnation = $3 ORDER BY partition",
                    &[&&*self.policy().consumer, &source, &life.to_string()],
                )
                .await
                .during("read the receiver's marks")?;
            let mark = |found: &Row| {
                Ok(Mark {
                    partition: row::partition(found, 0)?,
                    sequence: row::number(found, 1)?,
                    last_id: row::text(found, 2)?,
                })
            };
            rows.iter().map(mark).collect()
        })
    }

    fn requested(&self) -> BoxFuture<'_, Result<Vec<ParkedKey>>> {
        Box::pin(async move {
            let scope = self.policy().scope();
            let client = self.store.engine().await?;
            let mut keys = parking::keys(&client, Some(&scope)).await?;
            keys.retain(|key| key.request != Request::Wait);
            Ok(keys)
        })
    }

    fn redrive(&self, key: ParkedKey) -> BoxFuture<'_, Result<Result<u64, Text>>> {
        Box::pin(async move { self.redrive_front(&key).await })
    }

    fn forget(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            let forgets = self.policy().sabotage.has(Defect::ForgetIds);
            let kept = if forgets { Duration::ZERO } else { self.options.id_retention };
            let client = self.store.engine().await?;
            client
                .execute(
                    "DELETE FROM onewrite.inbox_id WHERE consumer = $1 AND seen_at <= clock_timestamp() - make_interval(secs => $2)",
                    &[&&*self.policy().consumer, &kept.as_secs_f64()],
                )
                .await
                .during("forget old ids")
        })
    }
}

/// What a handler overlooked that said it was done: a statement that failed, or an event that is owed.
async fn overlooked(
    tx: &Transaction<'_>,
    placing: Option<&str>,
    has_emitted: bool,
) -> Result<Option<Text>> {
    let found = match tx.query_typed(statement::OWES, &[]).await {
        Err(error) if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {
            return Ok(Some("the handler went on after a statement had failed".into()));
        }
        found => found.during("look for changes without an event")?,
    };
    let Some(found) = found.first() else { return Ok(None) };
    // Emitted through SQL, it stands in the transaction's own list.
    let has_emitted = has_emitted || found.get::<_, Option<&str>>(1) != placing;
    let owes = !has_emitted && found.get(0);
    let why = "the handler changed a guarded table and emitted no event";
    Ok(owes.then(|| Error::new(Code::EventForgotten, why).to_string().into()))
}

/// Whether an error may be the fault of one handler, rather than trouble that concerns all.
fn is_a_handlers(error: &Error) -> bool {
    matches!(
        error.code(),
        Code::Database | Code::EventForgotten | Code::EventTooLarge | Code::InvalidEvent
    )
}

/// Whether a handler's error comes from the database itself, so that every event would fail.
fn database_trouble(error: &(dyn std::error::Error + 'static)) -> Option<Code> {
    let code = match (error.downcast_ref::<Error>(), error.downcast_ref()) {
        (Some(error), _) => error.code(),
        (_, Some(error)) => crate::error::code_of(error),
        _ => return None,
    };
    is_trouble(code).then_some(code)
}

/// Whether it is the database's own, and would befall every event.
pub(crate) fn is_trouble(code: Code) -> bool {
    matches!(
        code,
        Code::DiskFull | Code::StoreBusy | Code::ReadOnly | Code::Corrupt | Code::StoreUnreachable
    )
}

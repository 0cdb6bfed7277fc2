//! The inbox on MariaDB and MySQL: the handler runs in the transaction that moves the mark.

mod context;
mod lanes;

use std::{
    collections::{BTreeSet, HashMap},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures::FutureExt as _;
use mysql_async::{Row, Transaction, TxOpts, prelude::Queryable};
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

pub use self::context::Context;
use self::lanes::{forget, lock_lanes, move_marks, remember};
use crate::{
    MysqlStore, commit, emit,
    error::{While, after_commit, code_of, told},
    parking,
    row::{self, binds, execute, now, query},
};

/// Reacts to one event with writes on the transaction it is given.
type Handler = dyn for<'a, 'b> Fn(&'a mut Context<'b>) -> BoxFuture<'a, Result<(), HandlerError>>
    + Send
    + Sync;

/// A consumer's inbox with its handler.
pub struct MysqlInbox {
    store: MysqlStore,
    options: InboxOptions,
    handler: Arc<Handler>,
}

/// Whether each handler runs in a savepoint of its own, which costs a round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Care {
    /// None: should one refuse, everything is undone and done again without that one.
    Bold,
    Savepoints,
}

/// Verdicts of handlers that ran in a transaction that was undone.
type Verdicts = HashMap<usize, Text>;

/// So many handlers of a batch may refuse before each gets a savepoint.
const BOLD_MAX: usize = 3;

/// The longest name of a consumer, in characters.
const NAME_MAX: usize = 200;

impl MysqlInbox {
    /// An inbox in `store` whose `handler` runs for every event, once in effect.
    ///
    /// # Errors
    /// [`Code::UnsafeSetting`] when ids would be forgotten while a sender may still repeat them;
    /// [`Code::InvalidConfig`] for a consumer's name that does not fit.
    pub fn new(
        store: &MysqlStore,
        options: InboxOptions,
        handler: impl for<'a, 'b> Fn(&'a mut Context<'b>) -> BoxFuture<'a, Result<(), HandlerError>>
        + Send
        + Sync
        + 'static,
    ) -> Result<Self> {
        options.check()?;
        if options.policy.consumer.chars().count() > NAME_MAX {
            let context = format!("a consumer's name takes at most {NAME_MAX} characters");
            return Err(Error::new(Code::InvalidConfig, context));
        }
        Ok(Self { store: store.clone(), options, handler: Arc::new(handler) })
    }

    /// Runs the machine for one batch in one transaction; `None` when it has to be done again, for a verdict is
    /// known now.
    async fn handle_batch(
        &self,
        deliveries: &[Delivery],
        attempts: &[Attempt],
        care: Care,
        verdicts: &mut Verdicts,
    ) -> Result<Option<Vec<Receipt>>> {
        let policy = self.policy();
        let scope = policy.scope();
        let lanes: BTreeSet<Lane> = deliveries.iter().map(Lane::of).collect();
        let mut tx = self.store.begin().await?;
        let states = if policy.sabotage.has(Defect::MarkBeforeEffect) {
            self.mark_first(deliveries, &lanes).await?
        } else {
            lock_lanes(&mut tx, policy, &lanes).await?
        };
        let any_parked = parking::any(&mut tx, &scope).await?;
        let mut claim = Claim::new(policy, deliveries, attempts, states, any_parked);
        let mut emitted = Vec::new();
        let mut fact = Fact::Begun;
        loop {
            fact = match claim.step(fact) {
                Effect::Remember(index) => {
                    Fact::Fresh(remember(&mut tx, policy, &deliveries[index].record).await?)
                }
                Effect::Forget(index) => {
                    forget(&mut tx, policy, &deliveries[index].record).await?;
                    Fact::Forgotten
                }
                Effect::LookParked(index) => {
                    let record = &deliveries[index].record;
                    let key = record.event.order_key();
                    Fact::Parked(parking::is_parked(&mut tx, &scope, &record.source, key).await?)
                }
                Effect::Handle(index) if verdicts.contains_key(&index) => {
                    Fact::Handled(verdicts.get(&index).cloned())
                }
                Effect::Handle(index) => {
                    let record = &deliveries[index].record;
                    let refusal = match care {
                        Care::Bold => self.run(&mut tx, record, false, &mut emitted).await?,
                        Care::Savepoints => {
                            self.handle(&mut tx, record, false, &mut emitted).await?
                        }
                    };
                    match refusal {
                        Some(reason) if care == Care::Bold => {
                            verdicts.insert(index, reason);
                            tx.rollback().await.during("undo a batch")?;
                            return Ok(None);
                        }
                        refusal => Fact::Handled(refusal),
                    }
                }
                Effect::Park(index, reason) => {
                    let record = &deliveries[index].record;
                    parking::park_record(&mut tx, &scope, record, &reason).await?;
                    Fact::Stored
                }
                Effect::Done => break,
            };
        }
        let changed: Vec<_> = claim.changed().collect();
        move_marks(&mut tx, policy, &changed).await?;
        finish(tx, &emitted).await?;
        Ok(Some(claim.receipts()))
    }

    /// Runs the handler in a savepoint. Its refusal is a verdict; trouble with the database is not the
    /// event's fault and fails the batch.
    async fn handle(
        &self,
        tx: &mut Transaction<'static>,
        record: &Record,
        redriven: bool,
        emitted: &mut Vec<Event>,
    ) -> Result<Option<Text>> {
        let before = emitted.len();
        tx.query_drop("SAVEPOINT onewrite").await.during("begin a savepoint")?;
        let refusal = self.run(tx, record, redriven, emitted).await?;
        if refusal.is_some() {
            // Not there any more: the transaction is not the one that it was.
            let undone = tx.query_drop("ROLLBACK TO SAVEPOINT onewrite").await;
            undone.map_err(|error| {
                Error::new(Code::StoreBusy, "roll back to a savepoint").with_source(error)
            })?;
            emitted.truncate(before);
        }
        Ok(refusal)
    }

    async fn run(
        &self,
        tx: &mut Transaction<'static>,
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
        let mut conn = self.store.engine().await?;
        let mut tx =
            conn.start_transaction(TxOpts::default()).await.during("begin a transaction")?;
        let states = lock_lanes(&mut tx, policy, lanes).await?;
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
        move_marks(&mut tx, policy, &changed).await?;
        tx.commit().await.map_err(after_commit)?;
        Ok(states)
    }

    /// Carries out the request for the front record: one transaction, so that a crash repeats or skips it
    /// as a whole.
    async fn redrive_front(&self, key: &ParkedKey) -> Result<Result<u64, Text>> {
        let mut tx = self.store.begin().await?;
        // Locks the key: who parks behind it, or re-drives it as well, waits.
        let request = parking::requested(&mut tx, key).await?;
        let Some(front) = parking::records(&mut tx, key, 1).await?.pop() else {
            return Ok(Ok(0));
        };
        if !matches!(request, Some(Request::Retry | Request::Discard)) {
            return Ok(Ok(key.waiting));
        }
        let mut emitted = Vec::new();
        let names = (&*key.source, &*key.key);
        if request == Some(Request::Retry)
            && let Some(reason) = self.handle(&mut tx, &front.record, true, &mut emitted).await?
        {
            parking::request(&mut tx, &key.scope, names, Request::Wait, Some(&reason)).await?;
            finish(tx, &[]).await?;
            return Ok(Err(reason));
        }
        remember(&mut tx, self.policy(), &front.record).await?;
        let left = parking::unpark(&mut tx, &key.scope, names, front.position).await?;
        finish(tx, &emitted).await?;
        Ok(Ok(left))
    }
}

/// Emits what was emitted and commits.
async fn finish(mut tx: Transaction<'static>, emitted: &[Event]) -> Result<()> {
    emit::emit_all(&mut tx, emitted).await?;
    failpoint::hit("receiver.after_handler_before_commit");
    commit::finish_work(tx).await
}

impl Inbox for MysqlInbox {
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
            let mut conn = self.store.engine().await?;
            let mut tx =
                conn.start_transaction(TxOpts::default()).await.during("count attempts")?;
            let lanes = attempts.iter().map(|attempt| attempt.lane.clone()).collect();
            let mut states = lock_lanes(&mut tx, policy, &lanes).await?;
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
            move_marks(&mut tx, policy, &changed).await?;
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
            loop {
                let care = if verdicts.len() < BOLD_MAX { Care::Bold } else { Care::Savepoints };
                let done = self.handle_batch(&deliveries, &attempts, care, &mut verdicts).await?;
                if let Some(receipts) = done {
                    return Ok(receipts);
                }
            }
        })
    }

    fn marks<'a>(&'a self, source: &'a str, life: Incarnation) -> BoxFuture<'a, Result<Vec<Mark>>> {
        Box::pin(async move {
            let mut conn = self.store.engine().await?;
            let sql = "SELECT `partition`, sequence, last_id FROM onewrite_inbox
                 WHERE consumer = ? AND source = ? AND incarnation = ? ORDER BY `partition`";
            let binds = binds![&*self.policy().consumer, source, life.to_string()];
            let mark = |mut found: Row| {
                let found = &mut found;
                Ok(Mark {
                    partition: row::get(found, 0)?,
                    sequence: row::number(found, 1)?,
                    last_id: row::text(found, 2)?,
                })
            };
            query(&mut conn, sql, binds).await?.into_iter().map(mark).collect()
        })
    }

    fn requested(&self) -> BoxFuture<'_, Result<Vec<ParkedKey>>> {
        Box::pin(async move {
            let scope = self.policy().scope();
            let mut keys = parking::keys(&mut self.store.engine().await?, Some(&scope)).await?;
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
            let kept = i64::try_from(kept.as_micros()).unwrap_or(i64::MAX);
            let sql = concat!(
                "DELETE FROM onewrite_inbox_id WHERE consumer = ? AND seen_at <= ",
                now!(),
                " - ?"
            );
            execute(&mut self.store.engine().await?, sql, binds![&*self.policy().consumer, kept])
                .await
        })
    }
}

/// Whether a handler's error comes from the database itself, so that every event would fail.
fn database_trouble(error: &(dyn std::error::Error + 'static)) -> Option<Code> {
    let code = match (error.downcast_ref::<Error>(), error.downcast_ref()) {
        (Some(error), _) => error.code(),
        (_, Some(error)) => code_of(error),
        _ => return None,
    };
    let is_trouble = matches!(
        code,
        Code::DiskFull | Code::StoreBusy | Code::ReadOnly | Code::Corrupt | Code::StoreUnreachable
    );
    is_trouble.then_some(code)
}

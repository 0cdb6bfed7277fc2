//! The inbox on SQLite: the handler runs on the store's writer, in the transaction that moves the mark.

use std::{sync::Arc, time::Duration};

use onewrite_core::{
    BoxFuture, Code, Delivery, Error, Event, Incarnation, Record, Result, Text,
    broker::{Mark, Receipt},
    failpoint,
    inbox::{
        Attempt, Claim, Effect, Fact, HandlerError, Inbox, InboxOptions, Lane, LaneState, Policy,
    },
    parking::{ParkedKey, Request},
    sabotage::Defect,
    store::Durability,
};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::{
    SqliteStore,
    claim::execute,
    emit::{self, Placed},
    error::While,
    parking, statement,
    writer::{in_savepoint, now},
};

/// Reacts to one event with writes on the transaction it is given.
type Handler = dyn Fn(&Context<'_>) -> Result<(), HandlerError> + Send + Sync;

/// What a handler is given: the event, and the transaction in which its reaction is committed.
pub struct Context<'a> {
    tx: &'a Connection,
    record: &'a Record,
    redriven: bool,
}

impl Context<'_> {
    /// The open transaction: what is written here is committed together with the mark.
    #[must_use]
    pub fn tx(&self) -> &Connection {
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

    /// Whether an operator had this event delivered again.
    #[must_use]
    pub fn is_redriven(&self) -> bool {
        self.redriven
    }

    /// Emits `event` as caused by this one: reacting and emitting are one commit.
    ///
    /// # Errors
    /// As [`crate::emit`].
    pub fn emit(&self, event: Event) -> Result<Placed> {
        emit::place(self.tx, &event.caused_by(&self.record.event), emit::terms(self.tx)?)
    }

    /// Pays the guard's debts without an event, for a stated reason.
    ///
    /// # Errors
    /// [`Code::Database`] for an empty reason.
    pub fn no_event(&self, reason: &str) -> Result<()> {
        crate::guard::no_event(self.tx, reason)
    }
}

/// A consumer's inbox with its handler.
pub struct SqliteInbox {
    store: SqliteStore,
    options: InboxOptions,
    handler: Arc<Handler>,
}

impl SqliteInbox {
    /// An inbox in `store` whose `handler` runs for every event, once in effect.
    ///
    /// # Errors
    /// [`Code::UnsafeSetting`] when ids would be forgotten while a sender may still repeat them.
    pub fn new(
        store: &SqliteStore,
        options: InboxOptions,
        handler: impl Fn(&Context<'_>) -> Result<(), HandlerError> + Send + Sync + 'static,
    ) -> Result<Self> {
        options.check()?;
        Ok(Self { store: store.clone(), options, handler: Arc::new(handler) })
    }
}

impl Inbox for SqliteInbox {
    fn policy(&self) -> &Policy {
        &self.options.policy
    }

    fn attempt(
        &self,
        attempts: Vec<Attempt>,
        again: bool,
    ) -> BoxFuture<'_, Result<Vec<(LaneState, bool)>>> {
        let policy = self.options.policy.clone();
        Box::pin(self.store.engine_write(Durability::Relaxed, move |tx| {
            attempts.iter().map(|attempt| count(tx, &policy, attempt, again)).collect()
        }))
    }

    fn receive(
        &self,
        deliveries: Vec<Delivery>,
        attempts: Vec<Attempt>,
    ) -> BoxFuture<'_, Result<Vec<Receipt>>> {
        let policy = self.options.policy.clone();
        let handler = Arc::clone(&self.handler);
        Box::pin(async move {
            let states = if policy.sabotage.has(Defect::MarkBeforeEffect) {
                let (policy, deliveries) = (policy.clone(), deliveries.clone());
                let first = move |tx: &Connection| mark_first(tx, &policy, &deliveries);
                Some(self.store.engine_write(Durability::Durable, first).await?)
            } else {
                None
            };
            let work = move |tx: &Connection| {
                let states = match &states {
                    Some(states) => states.clone(),
                    None => lane_states(tx, &policy, &deliveries)?,
                };
                receive(tx, &policy, &*handler, &deliveries, &attempts, states)
            };
            self.store.engine_write(Durability::Durable, work).await
        })
    }

    fn marks<'a>(&'a self, source: &'a str, life: Incarnation) -> BoxFuture<'a, Result<Vec<Mark>>> {
        let (consumer, source) = (self.options.policy.consumer.clone(), source.to_owned());
        Box::pin(
            self.store.engine_read(move |connection| marks(connection, &consumer, &source, life)),
        )
    }

    fn requested(&self) -> BoxFuture<'_, Result<Vec<ParkedKey>>> {
        let scope = self.options.policy.scope();
        Box::pin(self.store.engine_read(move |connection| {
            let mut keys = parking::keys(connection, Some(&scope))?;
            keys.retain(|key| key.request != Request::Wait);
            Ok(keys)
        }))
    }

    fn redrive(&self, key: ParkedKey) -> BoxFuture<'_, Result<Result<u64, Text>>> {
        let handler = Arc::clone(&self.handler);
        let consumer = self.options.policy.consumer.clone();
        Box::pin(
            self.store.engine_write(Durability::Durable, move |tx| {
                redrive(tx, &consumer, &*handler, &key)
            }),
        )
    }

    fn forget(&self) -> BoxFuture<'_, Result<u64>> {
        let policy = self.options.policy.clone();
        let retention = self.options.id_retention;
        Box::pin(self.store.engine_write(Durability::Relaxed, move |tx| {
            let kept =
                if policy.sabotage.has(Defect::ForgetIds) { Duration::ZERO } else { retention };
            let before =
                now().0.saturating_sub(i64::try_from(kept.as_micros()).unwrap_or(i64::MAX));
            execute(
                tx,
                "DELETE FROM onewrite_inbox_id WHERE consumer = ?1 AND seen_at <= ?2",
                params![&*policy.consumer, before],
            )
        }))
    }
}

/// Counts a claim of one lane, as its row says.
fn count(
    tx: &Connection,
    policy: &Policy,
    attempt: &Attempt,
    again: bool,
) -> Result<(LaneState, bool)> {
    let mut state = lane_state(tx, policy, &attempt.lane)?;
    if policy.sabotage.has(Defect::NoAttempts) {
        return Ok((state, true));
    }
    let counted = state.claim(attempt.first, again);
    if counted {
        move_mark(tx, policy, &attempt.lane, &state)?;
    }
    Ok((state, counted))
}

fn lane_state(tx: &Connection, policy: &Policy, lane: &Lane) -> Result<LaneState> {
    let read = |row: &Row<'_>| {
        Ok(LaneState {
            sequence: row.get::<_, i64>(0)?.cast_unsigned(),
            last_id: row.get::<_, String>(1)?.into(),
            attempt_first: row.get::<_, i64>(2)?.cast_unsigned(),
            attempts: row.get(3)?,
            redriven: row.get::<_, i64>(4)?.cast_unsigned(),
            gap: row.get::<_, i64>(5)?.cast_unsigned(),
        })
    };
    tx.prepare_cached(statement::LANE_STATE)
        .and_then(|mut statement| {
            statement
                .query_row(
                    params![
                        &*policy.consumer,
                        &*lane.source,
                        lane.incarnation.to_string(),
                        lane.partition
                    ],
                    read,
                )
                .optional()
        })
        .during("read the receiver's mark")
        .map(Option::unwrap_or_default)
}

/// The stored states of the lanes of all deliveries.
fn lane_states(
    tx: &Connection,
    policy: &Policy,
    deliveries: &[Delivery],
) -> Result<Vec<(Lane, LaneState)>> {
    let lanes: std::collections::BTreeSet<Lane> = deliveries.iter().map(Lane::of).collect();
    lanes.into_iter().map(|lane| lane_state(tx, policy, &lane).map(|state| (lane, state))).collect()
}

/// Moves the marks behind `deliveries` without handling them ([`Defect::MarkBeforeEffect`]). Returns
/// the states as they were.
fn mark_first(
    tx: &Connection,
    policy: &Policy,
    deliveries: &[Delivery],
) -> Result<Vec<(Lane, LaneState)>> {
    let states = lane_states(tx, policy, deliveries)?;
    for (lane, state) in &states {
        let last = deliveries.iter().rfind(|delivery| Lane::of(delivery) == *lane);
        let Some(record) = last.map(|delivery| &delivery.record) else { continue };
        if record.sequence > state.sequence {
            let last_id = record.event.id.clone().unwrap_or_default();
            let moved = LaneState { sequence: record.sequence, last_id, ..state.clone() };
            move_mark(tx, policy, lane, &moved)?;
        }
    }
    Ok(states)
}

/// Runs the machine for one batch in one transaction.
fn receive(
    tx: &Connection,
    policy: &Policy,
    handler: &Handler,
    deliveries: &[Delivery],
    attempts: &[Attempt],
    states: Vec<(Lane, LaneState)>,
) -> Result<Vec<Receipt>> {
    let scope = policy.scope();
    let any_parked = parking::any_parked(tx, &scope)?;
    let mut claim = Claim::new(policy, deliveries, attempts, states, any_parked);
    let mut fact = Fact::Begun;
    loop {
        fact = match claim.step(fact) {
            Effect::Remember(index) => {
                Fact::Fresh(remember(tx, &policy.consumer, &deliveries[index].record)?)
            }
            Effect::Forget(index) => {
                forget(tx, policy, &deliveries[index].record)?;
                Fact::Forgotten
            }
            Effect::LookParked(index) => {
                let record = &deliveries[index].record;
                Fact::Parked(parking::is_parked(
                    tx,
                    &scope,
                    &record.source,
                    record.event.order_key(),
                )?)
            }
            Effect::Handle(index) => {
                Fact::Handled(handle(tx, handler, &deliveries[index].record, false)?)
            }
            Effect::Park(index, reason) => {
                parking::park_record(tx, &scope, &deliveries[index].record, &reason)?;
                Fact::Stored
            }
            Effect::Done => break,
        };
    }
    for (lane, state) in claim.changed() {
        move_mark(tx, policy, lane, state)?;
    }
    failpoint::hit("receiver.after_handler_before_commit");
    Ok(claim.receipts())
}

/// Runs the handler in a savepoint. Its refusal is a verdict; the database's own trouble (a full disk)
/// is not the event's fault and fails the batch.
fn handle(
    tx: &Connection,
    handler: &Handler,
    record: &Record,
    redriven: bool,
) -> Result<Option<Text>> {
    let context = Context { tx, record, redriven };
    let mut refusal: Option<HandlerError> = None;
    let result = in_savepoint(tx, || {
        handler(&context).map_err(|error| {
            let reason = Error::new(Code::HandlerFailed, error.to_string());
            refusal = Some(error);
            reason
        })
    });
    let Err(error) = result else { return Ok(None) };
    let cause = refusal.as_ref().map(|refusal| database_trouble(&**refusal));
    if let Some(Some(trouble)) = cause {
        return Err(Error::new(trouble, "the handler could not write").with_source(error));
    }
    Ok(Some(error.to_string().into()))
}

/// Whether a handler's error comes from the database itself, so that every event would fail.
fn database_trouble(error: &(dyn std::error::Error + 'static)) -> Option<Code> {
    let code = match (error.downcast_ref::<Error>(), error.downcast_ref::<rusqlite::Error>()) {
        (Some(error), _) => error.code(),
        (_, Some(_)) => crate::error::code_of(error.downcast_ref()?),
        _ => return None,
    };
    matches!(code, Code::DiskFull | Code::StoreBusy | Code::ReadOnly | Code::Corrupt)
        .then_some(code)
}

/// Insert first: whether the id is new is decided by the insert alone.
fn remember(tx: &Connection, consumer: &str, record: &Record) -> Result<bool> {
    execute(tx, statement::REMEMBER, params![consumer, &*record.source, record.id(), now().0])
        .map(|inserted| inserted == 1)
}

/// Takes back what [`remember`] inserted: the event was refused and is to come again.
fn forget(tx: &Connection, policy: &Policy, record: &Record) -> Result<u64> {
    execute(tx, statement::FORGET, params![&*policy.consumer, &*record.source, record.id()])
}

fn move_mark(tx: &Connection, policy: &Policy, lane: &Lane, state: &LaneState) -> Result<()> {
    execute(
        tx,
        statement::MOVE_MARK,
        params![
            &*policy.consumer,
            &*lane.source,
            lane.incarnation.to_string(),
            lane.partition,
            state.sequence.cast_signed(),
            &*state.last_id,
            state.attempt_first.cast_signed(),
            state.attempts,
            state.redriven.cast_signed(),
            state.gap.cast_signed()
        ],
    )
    .map(|_| ())
}

fn marks(
    connection: &Connection,
    consumer: &str,
    source: &str,
    life: Incarnation,
) -> Result<Vec<Mark>> {
    let mut statement = connection
        .prepare_cached(
            "SELECT partition, sequence, last_id FROM onewrite_inbox WHERE consumer = ?1 AND source = ?2 AND incarnation = ?3 ORDER BY partition",
        )
        .during("read the receiver's marks")?;
    statement
        .query_map(params![consumer, source, life.to_string()], |row| {
            Ok(Mark {
                partition: row.get(0)?,
                sequence: row.get::<_, i64>(1)?.cast_unsigned(),
                last_id: row.get::<_, String>(2)?.into(),
            })
        })
        .and_then(Iterator::collect)
        .during("read the receiver's marks")
}

/// Carries out the request for the front record: one transaction, so that a crash repeats or skips it
/// as a whole.
fn redrive(
    tx: &Connection,
    consumer: &str,
    handler: &Handler,
    key: &ParkedKey,
) -> Result<Result<u64, Text>> {
    let request = parking::current(tx, key)?;
    let Some(front) = parking::front(tx, key)? else { return Ok(Ok(0)) };
    if request == Some(Request::Retry)
        && let Some(reason) = handle(tx, handler, &front.record, true)?
    {
        parking::request(tx, &key.scope, (&key.source, &key.key), Request::Wait, Some(&reason))?;
        return Ok(Err(reason));
    }
    if matches!(request, Some(Request::Retry | Request::Discard)) {
        remember(tx, consumer, &front.record)?;
        return parking::unpark(tx, &key.scope, &key.source, &key.key, front.position).map(Ok);
    }
    Ok(Ok(key.waiting))
}

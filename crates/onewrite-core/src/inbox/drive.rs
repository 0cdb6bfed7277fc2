//! Driving the machine: one transaction of a receiver, from its first look to its commit.
//!
//! The same for every database and every client; what differs is a [`Session`].

use std::collections::{BTreeSet, HashMap};

use super::{
    Attempt, Care, Claim, Effect, Fact, Lane, LaneState, Policy, Rows, Session, Statement,
    handler::{Verdict, handle},
};
use crate::{
    Code, Delivery, Error, Result, Text,
    broker::Receipt,
    parking::{ParkedKey, Request},
    sabotage::Defect,
};

/// So many handlers of a batch may refuse before each gets a savepoint.
const BOLD_MAX: usize = 3;

/// A claimed batch on its way: perhaps through several transactions, of which the last is committed.
#[derive(Debug)]
pub struct Course<'a> {
    policy: &'a Policy,
    deliveries: &'a [Delivery],
    attempts: &'a [Attempt],
    care: Care,
    /// Of handlers that ran in a transaction that was undone.
    verdicts: HashMap<usize, Text>,
    /// With [`Defect::MarkBeforeEffect`]: the states before the marks were moved.
    marked: Option<Vec<(Lane, LaneState)>>,
}

/// How a transaction went.
enum Way {
    Committed(Vec<Receipt>),
    /// Undone: a handler refused without a savepoint.
    Refused(usize, Text),
    /// Undone: savepoints will tell.
    Unclear,
}

impl<'a> Course<'a> {
    /// A course for `deliveries`, of which `attempts` were counted. [`Care::Savepoints`] is kept; a bold
    /// course becomes careful when it has to.
    #[must_use]
    pub fn new(
        policy: &'a Policy,
        deliveries: &'a [Delivery],
        attempts: &'a [Attempt],
        care: Care,
    ) -> Self {
        Self { policy, deliveries, attempts, care, verdicts: HashMap::new(), marked: None }
    }

    /// Goes on with states that were read before the marks were moved ([`mark_first`]), for a client that
    /// cannot do so by itself.
    #[must_use]
    pub fn marked(self, marked: Option<Vec<(Lane, LaneState)>>) -> Self {
        Self { marked, ..self }
    }

    /// Handles the batch in `session`. `None` when nothing of it was committed and more is known than
    /// before: it has to be called again, with a new one.
    ///
    /// # Errors
    /// What concerns the whole batch. [`Code::CommitUnknown`] when nobody knows whether it is committed;
    /// with any other it is not.
    pub async fn handle<S: Session>(&mut self, session: S) -> Result<Option<Vec<Receipt>>> {
        if self.policy.sabotage.has(Defect::MarkBeforeEffect) && self.marked.is_none() {
            self.marked = Some(mark_first(session, self.deliveries).await?);
            return Ok(None);
        }
        match self.transact(session).await {
            Ok(Way::Committed(receipts)) => return Ok(Some(receipts)),
            Ok(Way::Refused(index, reason)) => {
                self.verdicts.insert(index, reason);
                if self.verdicts.len() >= BOLD_MAX {
                    self.care = Care::Savepoints;
                }
            }
            Ok(Way::Unclear) => self.care = Care::Savepoints,
            // A deferred constraint, or a statement whose failure a handler overlooked.
            Err(error)
                if S::FAULTS_SHOW_LATER && self.care == Care::Bold && is_a_handlers(&error) =>
            {
                self.care = Care::Savepoints;
            }
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    async fn transact<S: Session>(&self, mut session: S) -> Result<Way> {
        let states = match &self.marked {
            Some(states) => states.clone(),
            None => session.states(&lanes(self.deliveries)).await?,
        };
        let any_parked = session.any_parked().await?;
        let (policy, deliveries) = (self.policy, self.deliveries);
        let mut claim = Claim::new(policy, deliveries, self.attempts, states, any_parked);
        let record = |index: usize| &deliveries[index].record;
        let mut fact = Fact::Begun;
        loop {
            fact = match claim.step(fact) {
                Effect::Remember(index) => {
                    Fact::Fresh(session.execute(Statement::Remember(record(index))).await? > 0)
                }
                Effect::Forget(index) => {
                    session.execute(Statement::Forget(record(index))).await?;
                    Fact::Forgotten
                }
                Effect::LookParked(index) => {
                    Fact::Parked(session.execute(Statement::LookParked(record(index))).await? > 0)
                }
                Effect::Handle(index) => match self.run(&mut session, index).await? {
                    Verdict::Done => Fact::Handled(None),
                    Verdict::Refused(reason) if self.must_undo(index) => {
                        return session.undo().await.map(|()| Way::Refused(index, reason));
                    }
                    Verdict::Refused(reason) => Fact::Handled(Some(reason)),
                    Verdict::Unclear => return session.undo().await.map(|()| Way::Unclear),
                },
                Effect::Park(index, reason) => {
                    session.execute(Statement::ParkRecord(record(index))).await?;
                    session.execute(Statement::ParkKey(record(index), &reason)).await?;
                    Fact::Stored
                }
                Effect::Done => break,
            };
        }
        let changed: Vec<_> = claim.changed().collect();
        session.write(&changed).await?;
        session.finish().await?;
        Ok(Way::Committed(claim.receipts()))
    }

    /// Runs the handler of a delivery, unless its verdict is known.
    async fn run<S: Session>(&self, session: &mut S, index: usize) -> Result<Verdict> {
        match self.verdicts.get(&index) {
            Some(reason) => Ok(Verdict::Refused(reason.clone())),
            None => handle(session, &self.deliveries[index].record, false, self.care).await,
        }
    }

    /// Whether a refusal leaves behind what the handler wrote: it ran here, without a savepoint.
    fn must_undo(&self, index: usize) -> bool {
        self.care == Care::Bold && !self.verdicts.contains_key(&index)
    }
}

fn lanes(deliveries: &[Delivery]) -> BTreeSet<Lane> {
    deliveries.iter().map(Lane::of).collect()
}

/// Whether an error may be the fault of one handler, rather than trouble that concerns all.
fn is_a_handlers(error: &Error) -> bool {
    matches!(
        error.code(),
        Code::Database | Code::EventForgotten | Code::EventTooLarge | Code::InvalidEvent
    )
}

/// Carries out the request for the front record of a parked key: one transaction, so that a crash repeats
/// or skips it as a whole. Returns what [`super::Inbox::redrive`] returns.
///
/// # Errors
/// As [`Course::handle`].
pub async fn redrive<S: Session>(mut session: S, key: &ParkedKey) -> Result<Result<u64, Text>> {
    // Locks the key: who parks behind it, or re-drives it as well, waits.
    let (request, front) = session.parked(key).await?;
    let Some(front) = front else { return Ok(Ok(0)) };
    let Some(request @ (Request::Retry | Request::Discard)) = request else {
        return Ok(Ok(key.waiting));
    };
    if request == Request::Retry
        && let Verdict::Refused(reason) =
            handle(&mut session, &front.record, true, Care::Savepoints).await?
    {
        session.execute(Statement::WaitAgain(key, &reason)).await?;
        session.finish().await?;
        return Ok(Err(reason));
    }
    session.execute(Statement::Remember(&front.record)).await?;
    session.execute(Statement::Unpark(key, front.position)).await?;
    let left = session.execute(Statement::CountLeft(key)).await?;
    if left == 0 {
        session.execute(Statement::Free(key)).await?;
    }
    session.finish().await?;
    Ok(Ok(left))
}

/// Counts a claim for each attempt, in a transaction of its own. Returns what [`super::Inbox::attempt`]
/// returns.
///
/// # Errors
/// As [`Course::handle`].
pub async fn count<R: Rows>(
    mut rows: R,
    policy: &Policy,
    attempts: &[Attempt],
    again: bool,
) -> Result<Vec<(LaneState, bool)>> {
    let lanes = attempts.iter().map(|attempt| attempt.lane.clone()).collect();
    let mut states = rows.states(&lanes).await?;
    let mut counted = Vec::with_capacity(attempts.len());
    let mut changed = BTreeSet::new();
    for attempt in attempts {
        let found = states.iter_mut().find(|(lane, _)| *lane == attempt.lane);
        let Some((lane, state)) = found else { continue };
        let sabotaged = policy.sabotage.has(Defect::NoAttempts);
        let was = sabotaged || state.claim(attempt.first, again);
        if was && !sabotaged {
            changed.insert(lane.clone());
        }
        counted.push((state.clone(), was));
    }
    states.retain(|(lane, _)| changed.contains(lane));
    let changed: Vec<_> = states.iter().map(|(lane, state)| (lane, state)).collect();
    rows.write(&changed).await?;
    rows.commit().await?;
    Ok(counted)
}

/// Moves the marks behind `deliveries` before they are handled, in a transaction of its own
/// ([`Defect::MarkBeforeEffect`]). Returns the states as they were.
///
/// # Errors
/// As [`Course::handle`].
pub async fn mark_first<R: Rows>(
    mut rows: R,
    deliveries: &[Delivery],
) -> Result<Vec<(Lane, LaneState)>> {
    let states = rows.states(&lanes(deliveries)).await?;
    let mut moved = Vec::new();
    for (lane, state) in &states {
        let last = deliveries.iter().rfind(|delivery| Lane::of(delivery) == *lane);
        let Some(record) = last.map(|delivery| &delivery.record) else { continue };
        if record.sequence > state.sequence {
            let last_id = record.event.id.clone().unwrap_or_default();
            moved.push((lane, LaneState { sequence: record.sequence, last_id, ..state.clone() }));
        }
    }
    let changed: Vec<_> = moved.iter().map(|(lane, state)| (*lane, state)).collect();
    rows.write(&changed).await?;
    rows.commit().await?;
    Ok(states)
}

#[cfg(test)]
#[path = "drive_test.rs"]
mod drive_test;

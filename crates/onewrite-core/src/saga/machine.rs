//! The saga machine: decides what follows from a fact. Facts in, entries and attempts out.
//!
//! The driver hands over a fact ([`Saga::decide`]), has the entries written, and then asks what may be
//! done now ([`Saga::committed`]): so nothing is attempted before what permits it is durable. Should
//! the write be refused or its outcome be unknown, the driver drops the machine, and the saga starts
//! over from its journal; where another saga has the signal it was to take, it goes on as it was before. One
//! write of a saga is under way at a time; what is learnt meanwhile waits.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use super::{
    Attempt, Checked, DefinitionId, Direction, Ended, Entry, Input, Json, Kind, Parent, Phase,
    RetryPolicy, SagaId, StepKey,
    fold::{Stage, StepState, corrupt},
    journal::{SavedSaga, Standing, State, Waits},
};
use crate::{
    Code, Error, Result, Text, Timestamp,
    sabotage::{Defect, Sabotage},
};

/// Whether a saga can still be cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It is compensated from now on.
    Yes,
    /// It was being compensated already.
    Already,
    /// It has passed its pivot, or has ended.
    TooLate,
}

/// One run of a saga.
#[derive(Debug, Clone)]
pub struct Saga {
    pub(super) id: SagaId,
    pub(super) checked: Arc<Checked>,
    pub(super) input: Json,
    pub(super) started_at: Timestamp,
    pub(super) parent: Option<Parent>,
    pub(super) phase: Phase,
    pub(super) overdue: bool,
    /// Nothing of it begins until a person lets it go on.
    pub(super) paused: bool,
    /// Since when it is left to the next owner.
    pub(super) handed_back: Option<Timestamp>,
    pub(super) steps: Vec<StepState>,
    /// The attempts in flight here, by step. Not a fact: lost with this process.
    pub(super) in_flight: Vec<Option<(Direction, u32)>>,
    /// The number of its last transition.
    pub(super) version: u32,
    /// What its row says.
    pub(super) standing: Standing,
    /// The steps whose signals the store knows to be waited for.
    pub(super) awaiting: Vec<usize>,
    pub(super) sabotage: Sabotage,
}

/// What is known of a saga, and nothing else.
type Known<'a> = (
    (SagaId, &'a DefinitionId, &'a Json, Timestamp),
    (Phase, bool, bool, Option<Timestamp>, &'a [StepState]),
    (&'a [Option<(Direction, u32)>], u32, &'a Standing, &'a [usize]),
);

/// Two are equal when they know the same of one saga.
impl PartialEq for Saga {
    fn eq(&self, other: &Self) -> bool {
        self.known() == other.known()
    }
}

impl Eq for Saga {}

impl Hash for Saga {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.known().hash(state);
    }
}

impl Saga {
    fn known(&self) -> Known<'_> {
        (
            (self.id, self.checked.id(), &self.input, self.started_at),
            (self.phase, self.overdue, self.paused, self.handed_back, &self.steps),
            (&self.in_flight, self.version, &self.standing, &self.awaiting),
        )
    }

    /// A saga whose start is durable.
    #[must_use]
    pub fn started(
        id: SagaId,
        checked: Arc<Checked>,
        input: Json,
        started_at: Timestamp,
        sabotage: Sabotage,
    ) -> Self {
        let count = checked.steps().len();
        let mut saga = Self {
            id,
            checked,
            input,
            started_at,
            parent: None,
            phase: Phase::Forward,
            overdue: false,
            paused: false,
            handed_back: None,
            steps: (0..count).map(|_| StepState::new()).collect(),
            in_flight: vec![None; count],
            version: 0,
            standing: Standing::leased(State::Running),
            awaiting: Vec::new(),
            sabotage,
        };
        saga.make_ready(started_at);
        saga.standing = saga.stands();
        saga.awaiting = saga.to_await();
        saga
    }

    /// A saga as its journal tells it.
    ///
    /// # Errors
    /// [`crate::Code::Corrupt`] when the journal does not fit the definition.
    pub fn recovered(saved: &SavedSaga, checked: Arc<Checked>, sabotage: Sabotage) -> Result<Self> {
        if let Some(why) = &saved.unreadable {
            return Err(Error::new(Code::Corrupt, why.clone()));
        }
        let (input, at) = (saved.input.clone(), saved.started_at);
        let mut saga = Self::started(saved.id, checked, input, at, sabotage);
        saga.parent.clone_from(&saved.parent);
        for transition in &saved.journal {
            if transition.version != saga.version.wrapping_add(1) {
                return Err(corrupt("has a journal with a gap"));
            }
            for entry in &transition.entries()? {
                saga.apply(entry, transition.time)?;
            }
            saga.version = transition.version;
        }
        saga.standing = saved.standing.clone();
        saga.awaiting = saga.to_await();
        Ok(saga)
    }

    /// What follows from `input`: the entries of one transition, applied already. Nothing follows from
    /// what is late, repeated or of no consequence.
    ///
    /// # Errors
    /// Should an entry contradict what is known, which would be a defect of this machine.
    pub fn decide(&mut self, now: Timestamp, input: Input) -> Result<Vec<Entry>> {
        if self.has_ended() {
            return Ok(Vec::new());
        }
        let entries = match input {
            Input::Ended { step, direction, number, how, jitter } => {
                if self.in_flight.get(step) == Some(&Some((direction, number))) {
                    self.in_flight[step] = None;
                }
                let entry = match direction {
                    Direction::Action => self.action_ended(now, step, number, how, jitter),
                    Direction::Compensation => {
                        self.compensation_ended(now, step, number, how, jitter)
                    }
                };
                // With it, what the row says may have ended as well.
                let wakes = entry.is_none() && self.waits_in_vain();
                entry.or(wakes.then_some(Entry::Woken)).into_iter().collect()
            }
            Input::Time => self.woken(now),
            Input::Signalled { step, signal, payload } => {
                self.signalled(step, signal, payload).into_iter().collect()
            }
            Input::TakenOver => return self.taken_over(now),
            Input::HandBack => {
                let owned = self.standing.waits == Waits::Lease && self.in_flight() == 0;
                if owned { vec![Entry::HandedBack] } else { Vec::new() }
            }
            Input::Wanted { verb, actor, reason } => {
                self.wanted(verb, actor, reason).into_iter().collect()
            }
        };
        for entry in &entries {
            self.apply(entry, now)?;
        }
        Ok(entries)
    }

    /// Whether its owner has nothing to do, and its row says that there is.
    fn waits_in_vain(&self) -> bool {
        self.standing.waits == Waits::Lease && self.stands().waits != Waits::Lease
    }

    fn action_ended(
        &self,
        now: Timestamp,
        step: usize,
        number: u32,
        how: Ended,
        jitter: f64,
    ) -> Option<Entry> {
        let state = self.steps.get(step)?;
        if state.stage != Stage::Open || !state.attempted {
            return None;
        }
        let name = self.name(step);
        let attempt = number;
        if let Ended::Done(output) = how {
            // Also while compensating: the compensation is to know what there is to undo.
            return Some(Entry::Done { step: name, attempt, output });
        }
        if self.phase != Phase::Forward || number <= state.attempts {
            return None;
        }
        let kind = self.checked.steps()[step].kind;
        let (reason, aborted) = match how {
            Ended::Aborted(reason) => (reason, true),
            Ended::Done(_) => return None,
            Ended::Unknown(reason) => (reason, false),
            Ended::NotMade(reason) => return Some(self.not_made(now, step, jitter, reason)),
            Ended::UnderWay { look_in, reason } => {
                return Some(self.under_way(now, step, look_in, reason));
            }
        };
        if aborted {
            // It has ended elsewhere while this attempt looked, and may have ended well: it looks again.
            if kind == Kind::Retriable && state.told {
                return Some(self.under_way(now, step, Duration::ZERO, reason));
            }
            return Some(match kind {
                Kind::Retriable => Entry::Held { step: name, attempt, reason },
                Kind::Compensatable | Kind::Pivot => Entry::Failed { step: name, attempt, reason },
            });
        }
        Some(match self.next_attempt(now, step, number, jitter) {
            Some(at) => Entry::Retrying { step: name, attempt, at, reason },
            None => self.given_up(step, attempt, reason),
        })
    }

    pub(super) fn policy(&self, step: usize) -> RetryPolicy {
        let step = &self.checked.steps()[step];
        match self.phase {
            Phase::Compensating => step.compensation_retry(),
            _ => step.retry(),
        }
    }

    /// No further attempt: what can be compensated fails. What cannot needs a person, for its outcome
    /// is unknown.
    fn given_up(&self, step: usize, attempt: u32, reason: Text) -> Entry {
        let name = self.name(step);
        match (self.phase, self.checked.steps()[step].kind) {
            (Phase::Forward, Kind::Compensatable) => Entry::Failed { step: name, attempt, reason },
            _ => Entry::Held { step: name, attempt, reason },
        }
    }

    fn compensation_ended(
        &self,
        now: Timestamp,
        step: usize,
        number: u32,
        how: Ended,
        jitter: f64,
    ) -> Option<Entry> {
        let state = self.steps.get(step)?;
        if self.phase != Phase::Compensating || self.is_made_good(step) {
            return None;
        }
        let (name, attempt) = (self.name(step), number);
        if let Ended::Done(_) = how {
            return Some(Entry::Compensated { step: name, attempt });
        }
        if number <= state.attempts {
            return None;
        }
        let reason = match how {
            Ended::Done(_) => return None,
            Ended::Aborted(reason) | Ended::Unknown(reason) => reason,
            Ended::NotMade(reason) => return Some(self.not_made(now, step, jitter, reason)),
            Ended::UnderWay { look_in, reason } => {
                return Some(self.under_way(now, step, look_in, reason));
            }
        };
        Some(match self.next_attempt(now, step, number, jitter) {
            Some(at) => Entry::Retrying { step: name, attempt, at, reason },
            None if self.sabotage.has(Defect::ForgetCompensation) => {
                Entry::Compensated { step: name, attempt }
            }
            None => self.given_up(step, attempt, reason),
        })
    }

    /// When the attempt after `attempts` begins, if the budget allows one.
    fn next_attempt(
        &self,
        now: Timestamp,
        step: usize,
        attempts: u32,
        jitter: f64,
    ) -> Option<Timestamp> {
        let policy = self.policy(step);
        let (state, step) = (self.steps.get(step)?, self.checked.steps().get(step)?);
        let at = now.plus(policy.pause(attempts, jitter));
        let limit = step.step_timeout_ms.filter(|_| self.phase == Phase::Forward);
        let in_time =
            limit.is_none_or(|limit| at.since(state.since) < Duration::from_millis(limit));
        (policy.allows(attempts, at.since(state.counted_since)) && in_time).then_some(at)
    }

    fn woken(&self, now: Timestamp) -> Vec<Entry> {
        let goes_on = !self.paused;
        if goes_on && self.is_expired(now) {
            if !self.is_past_pivot() {
                return vec![Entry::Expired];
            }
            if !self.overdue {
                return vec![Entry::Overdue];
            }
        }
        let waited = if goes_on { self.waited(now) } else { Vec::new() };
        if !waited.is_empty() {
            return waited;
        }
        let is_due = |step: &usize| self.steps[*step].retry_at.is_some_and(|at| at <= now);
        let is_left = self.handed_back.is_some() || self.standing != self.stands();
        let outdated = self.standing.waits != Waits::Lease && is_left;
        if goes_on && self.runnable().iter().any(is_due) || outdated {
            return vec![Entry::Woken];
        }
        Vec::new()
    }

    /// Counts what was in flight, and gives up what was tried too often: an attempt that ends its
    /// process must not do so for ever.
    fn taken_over(&mut self, now: Timestamp) -> Result<Vec<Entry>> {
        let mut entries = vec![Entry::TakenOver];
        self.apply(&Entry::TakenOver, now)?;
        for step in self.runnable() {
            let attempts = self.steps[step].attempts;
            let counted = attempts > 0 && self.steps[step].retry_at.is_none();
            if counted && self.next_attempt(now, step, attempts, 0.0).is_none() {
                let reason = Text::from_static("its owner ended during the last attempt allowed");
                let entry = self.given_up(step, attempts, reason);
                self.apply(&entry, now)?;
                entries.push(entry);
                if self.phase != Phase::Forward {
                    break;
                }
            }
        }
        Ok(entries)
    }

    /// The attempts to make now that everything decided is durable.
    pub fn committed(&mut self, now: Timestamp) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        let stops = self.paused && !self.sabotage.has(Defect::IgnorePause);
        let runnable = if stops { Vec::new() } else { self.runnable() };
        for step in runnable {
            let state = &self.steps[step];
            let waits = state.retry_at.is_some() || self.is_wait(step);
            if self.in_flight[step].is_some() || waits {
                continue;
            }
            let number = state.attempts.saturating_add(1);
            let attempt = self.attempt(now, step, number);
            self.in_flight[step] = Some((attempt.direction, number));
            attempts.push(attempt);
        }
        attempts
    }

    fn attempt(&self, now: Timestamp, step: usize, number: u32) -> Attempt {
        let (state, known) = (&self.steps[step], &self.checked.steps()[step]);
        let direction = self.direction();
        let outputs = |name: &str| {
            let found = self.checked.index_of(name)?;
            self.steps.get(found)?.output.clone()
        };
        let input = match &known.input {
            None => Ok(self.input.clone()),
            Some(mapping) => mapping.resolve(&self.input, &outputs).map_err(Text::from),
        };
        let mut deadline = now.plus(Duration::from_millis(known.attempt_timeout_ms));
        let key = match direction {
            Direction::Action => {
                let whole = known.step_timeout_ms.map(Duration::from_millis);
                deadline = whole.map_or(deadline, |whole| deadline.min(state.since.plus(whole)));
                StepKey::action(self.id, &known.name)
            }
            Direction::Compensation => StepKey::compensation(self.id, &known.name),
        };
        let output = match direction {
            Direction::Action => None,
            Direction::Compensation => state.output.clone(),
        };
        Attempt { saga: self.id, step, direction, number, key, input, output, deadline }
    }

    /// Whether it can be cancelled now.
    #[must_use]
    pub fn can_cancel(&self) -> Cancelled {
        match self.phase {
            Phase::Forward if !self.is_past_pivot() => Cancelled::Yes,
            Phase::Compensating => Cancelled::Already,
            Phase::Forward | Phase::Completed | Phase::Compensated => Cancelled::TooLate,
        }
    }

    pub(super) fn name(&self, step: usize) -> Text {
        self.checked.name(step)
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> SagaId {
        self.id
    }

    /// The step that it is, if another saga started it.
    #[must_use]
    pub fn parent(&self) -> Option<&Parent> {
        self.parent.as_ref()
    }

    /// What it is run by.
    #[must_use]
    pub fn checked(&self) -> &Arc<Checked> {
        &self.checked
    }

    /// How far it is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether nothing more will happen to it.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Completed | Phase::Compensated)
    }

    /// What its row says.
    #[must_use]
    pub fn standing(&self) -> &Standing {
        &self.standing
    }
}

#[cfg(test)]
#[path = "machine_test.rs"]
mod machine_test;

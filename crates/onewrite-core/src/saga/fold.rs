//! What is known of a saga: the fold of its journal. Running and recovering go through the same lines.

use super::{Compensation, Entry, Json, Kind, Step, machine::Saga};
use crate::{Code, Error, Result, Timestamp, sabotage::Defect};

/// How far a saga is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Its steps are carried out.
    Forward,
    /// What was attempted is compensated.
    Compensating,
    /// Every step is done.
    Completed,
    /// Everything that was attempted is compensated, or needs no compensation.
    Compensated,
}

/// What is known of one step.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct StepState {
    pub(super) stage: Stage,
    /// Whether its action may have begun.
    pub(super) attempted: bool,
    /// Since when its action or compensation could begin.
    pub(super) since: Timestamp,
    /// Since when its attempts are counted: their budget begins then.
    pub(super) counted_since: Timestamp,
    /// Attempts that have ended since then, in the present direction.
    pub(super) attempts: u32,
    /// Since when attempts end without counting: nobody makes them, or what they look at is under way elsewhere.
    pub(super) uncounted_since: Option<Timestamp>,
    /// When the next attempt begins, if it has to wait.
    pub(super) retry_at: Option<Timestamp>,
    /// Waits for a person.
    pub(super) held: bool,
    /// What it waits for elsewhere has ended, since it last looked.
    pub(super) told: bool,
    pub(super) output: Option<Json>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    /// Not done, as far as is known.
    Open,
    /// The action succeeded.
    Done,
    /// The action failed for good.
    Failed,
    /// The compensation succeeded.
    Compensated,
}

impl StepState {
    pub(super) fn new() -> Self {
        Self {
            stage: Stage::Open,
            attempted: false,
            since: Timestamp(0),
            counted_since: Timestamp(0),
            attempts: 0,
            uncounted_since: None,
            retry_at: None,
            held: false,
            told: false,
            output: None,
        }
    }

    /// Begins anew, in another direction or with a new budget.
    fn begin(&mut self, at: Timestamp) {
        self.attempts = 0;
        self.uncounted_since = None;
        self.retry_at = None;
        self.held = false;
        self.told = false;
        self.since = at;
        self.counted_since = at;
    }
}

impl Saga {
    /// Learns a fact that was written at `time`.
    ///
    /// # Errors
    /// [`Code::Corrupt`] when it does not follow from what is known.
    pub(super) fn apply(&mut self, entry: &Entry, time: Timestamp) -> Result<()> {
        if matches!(self.phase, Phase::Completed | Phase::Compensated) {
            return Err(corrupt("has ended, and its journal goes on"));
        }
        self.handed_back = matches!(entry, Entry::HandedBack).then_some(time);
        match entry {
            Entry::HandedBack => {}
            Entry::Done { step, output, .. } | Entry::Signalled { step, output, .. } => {
                let is_forward = self.phase == Phase::Forward;
                let state = self.state(step)?;
                if state.stage != Stage::Open {
                    return Err(corrupt("has a step that was done twice"));
                }
                state.stage = Stage::Done;
                state.output = Some(output.clone());
                if is_forward {
                    state.retry_at = None;
                    state.held = false;
                    self.make_ready(time);
                }
            }
            Entry::Retrying { step, attempt, at, .. } => {
                let state = self.state(step)?;
                let since = state.uncounted_since.unwrap_or(time);
                state.uncounted_since = (*attempt <= state.attempts).then_some(since);
                state.attempts = *attempt;
                if *attempt == 0 {
                    // Nothing failed, be it for the first time or again.
                    state.counted_since = time;
                }
                state.retry_at = Some(*at);
                state.told = false;
            }
            Entry::Failed { step, attempt, .. } => {
                let state = self.state(step)?;
                state.stage = Stage::Failed;
                state.attempts = *attempt;
                self.turn_back(time);
            }
            Entry::Held { step, attempt, .. } => {
                let state = self.state(step)?;
                state.attempts = *attempt;
                state.retry_at = None;
                state.held = true;
            }
            Entry::Compensated { step, .. } => {
                let state = self.state(step)?;
                if state.stage == Stage::Compensated {
                    return Err(corrupt("has a step that was compensated twice"));
                }
                state.stage = Stage::Compensated;
                state.retry_at = None;
                state.held = false;
            }
            Entry::Expired => self.turn_back(time),
            Entry::Cancelled { .. } | Entry::ForceCompensated { .. } => {
                self.paused = false;
                self.turn_back(time);
            }
            Entry::ForceCompleted { .. } => self.phase = Phase::Completed,
            Entry::Paused { .. } => self.paused = true,
            Entry::Retried { step, .. } => self.state(step)?.begin(time),
            Entry::Skipped { step, output, .. } => self.skip(step, output, time)?,
            Entry::Overdue => self.overdue = true,
            Entry::TakenOver => {
                let waiting = self.waiting();
                for step in self.runnable() {
                    // Nobody makes an attempt of what only waits.
                    let waits = waiting.contains(&step) || self.is_wait(step);
                    let state = &mut self.steps[step];
                    if waits || self.sabotage.has(Defect::NoAttempts) {
                        continue;
                    }
                    match state.retry_at {
                        None => state.attempts = state.attempts.saturating_add(1),
                        // It was to be made, and had not begun: that would have been written first.
                        Some(at) if at <= time => state.retry_at = None,
                        Some(_) => {}
                    }
                }
            }
            Entry::Woken => {
                let due = |state: &&mut StepState| state.retry_at.is_some_and(|at| at <= time);
                self.steps.iter_mut().filter(due).for_each(|state| state.retry_at = None);
            }
            Entry::Told { step, .. } => {
                // Behind the pivot it is held when it is not done in time: its end still counts.
                let is_forward = self.phase == Phase::Forward;
                let state = self.state(step)?;
                state.retry_at = None;
                state.told = true;
                state.held &= !is_forward;
            }
            Entry::Resumed { .. } => {
                self.paused = false;
                self.steps
                    .iter_mut()
                    .filter(|state| state.held)
                    .for_each(|state| state.begin(time));
            }
        }
        self.look_for_the_end();
        Ok(())
    }

    fn skip(&mut self, step: &str, output: &Json, time: Timestamp) -> Result<()> {
        let is_forward = self.phase == Phase::Forward;
        let state = self.state(step)?;
        state.stage = if is_forward { Stage::Done } else { Stage::Compensated };
        (state.retry_at, state.held) = (None, false);
        if is_forward {
            state.output = Some(output.clone());
            self.make_ready(time);
        }
        Ok(())
    }

    fn state(&mut self, name: &str) -> Result<&mut StepState> {
        let index = self.checked.index_of(name);
        index
            .and_then(|index| self.steps.get_mut(index))
            .ok_or_else(|| corrupt(&format!("has no step `{name}`")))
    }

    /// Steps whose predecessors are done may be attempted from now on: nothing else is written first.
    pub(super) fn make_ready(&mut self, time: Timestamp) {
        for step in 0..self.steps.len() {
            let ready = self
                .checked
                .before(step)
                .iter()
                .all(|before| self.steps[*before].stage == Stage::Done);
            let state = &mut self.steps[step];
            if ready && !state.attempted {
                state.attempted = true;
                state.begin(time);
            }
        }
    }

    fn turn_back(&mut self, time: Timestamp) {
        if self.phase == Phase::Forward {
            self.phase = Phase::Compensating;
            self.steps.iter_mut().for_each(|state| state.begin(time));
        }
    }

    fn look_for_the_end(&mut self) {
        match self.phase {
            Phase::Forward if self.steps.iter().all(|state| state.stage == Stage::Done) => {
                self.phase = Phase::Completed;
            }
            Phase::Compensating if (0..self.steps.len()).all(|step| self.is_made_good(step)) => {
                self.phase = Phase::Compensated;
            }
            _ => {}
        }
    }

    /// Whether nothing of this step is left to compensate.
    pub(super) fn is_made_good(&self, step: usize) -> bool {
        let state = &self.steps[step];
        let is_known = !self.sabotage.has(Defect::SkipUnknown) || state.stage == Stage::Done;
        !state.attempted
            || !is_known
            || state.stage == Stage::Compensated
            || matches!(self.checked.steps()[step].compensation, Compensation::None(_))
    }

    /// Steps whose action or compensation may be in flight.
    pub(super) fn runnable(&self) -> Vec<usize> {
        (0..self.steps.len()).filter(|step| self.is_runnable(*step)).collect()
    }

    /// Whether all that stands in the way of a step's action or compensation is done.
    pub(super) fn is_runnable(&self, step: usize) -> bool {
        let Some(state) = self.steps.get(step) else { return false };
        match self.phase {
            Phase::Forward => state.attempted && state.stage == Stage::Open && !state.held,
            Phase::Compensating => {
                let first = match self.sabotage.has(Defect::ForwardOrder) {
                    false => self.checked.behind(step),
                    true => self.checked.before(step),
                };
                !self.is_made_good(step)
                    && !state.held
                    && first.iter().all(|other| self.is_made_good(*other))
            }
            Phase::Completed | Phase::Compensated => false,
        }
    }

    /// Whether it can only go forward: its pivot, or a step that cannot be undone, may have begun. A pivot
    /// that waits for a signal has not begun before it has it, for taking it is a transition like any other.
    #[must_use]
    pub fn is_past_pivot(&self) -> bool {
        let still_waits = |(state, step): (&StepState, &Step)| {
            step.kind == Kind::Pivot && step.wait.is_some() && state.stage == Stage::Open
        };
        self.steps.iter().zip(self.checked.steps()).any(|(state, step)| {
            state.attempted && step.kind != Kind::Compensatable && !still_waits((state, step))
        })
    }
}

pub(super) fn corrupt(why: &str) -> Error {
    Error::new(Code::Corrupt, format!("the saga {why}"))
}

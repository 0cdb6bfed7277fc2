//! What a person wants of a saga: whether it can be had, and what follows.

use super::{Cancelled, Direction, Entry, Phase, Saga, Verb, Wait, fold::Stage};
use crate::{Text, sabotage::Defect};

/// Why what somebody wants of a saga cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It has no step of this name.
    NoStep,
    /// It is not in a state for it, and this says why.
    State(&'static str),
    /// What is to be tried again is being tried, or will be as soon as its participant can be asked.
    UnderWay,
}

impl Saga {
    /// What follows from what somebody wants; nothing where it is so already, or cannot be ([`Self::refusal`]).
    pub(super) fn wanted(&self, verb: Verb, actor: Text, reason: Text) -> Option<Entry> {
        let is_forward = self.phase == Phase::Forward;
        match verb {
            Verb::Cancel => {
                let can = self.can_cancel() == Cancelled::Yes || self.is_paused_on_its_way_back();
                can.then_some(Entry::Cancelled { actor, reason })
            }
            Verb::Resume => {
                let waits = self.paused || self.steps.iter().any(|state| state.held);
                waits.then_some(Entry::Resumed { actor, reason })
            }
            Verb::Look { step } => self.heeds(&step).then_some(Entry::Told { step, actor, reason }),
            Verb::Pause => (!self.paused).then_some(Entry::Paused { actor, reason }),
            Verb::Retry { step } => {
                self.can_retry(&step).then_some(Entry::Retried { step, actor, reason })
            }
            Verb::Skip { step, output, direction } => {
                let can = self.goes(direction) && self.has_turn(&step);
                can.then_some(Entry::Skipped { step, output, actor, reason })
            }
            Verb::ForceCompensate => {
                let can = is_forward || self.is_paused_on_its_way_back();
                can.then_some(Entry::ForceCompensated { actor, reason })
            }
            Verb::ForceComplete => is_forward.then_some(Entry::ForceCompleted { actor, reason }),
        }
    }

    /// Why what somebody wants cannot be had, if so.
    #[must_use]
    pub fn refusal(&self, verb: &Verb) -> Option<Refusal> {
        let is_compensating = self.phase == Phase::Compensating;
        let state = match verb {
            Verb::Resume | Verb::Look { .. } => None,
            _ if self.has_ended() => Some("it has ended"),
            Verb::Retry { step } | Verb::Skip { step, .. }
                if self.checked.index_of(step).is_none() =>
            {
                return Some(Refusal::NoStep);
            }
            Verb::Cancel => (self.can_cancel() == Cancelled::TooLate)
                .then_some("it has passed its pivot: it is too late"),
            Verb::Pause | Verb::ForceCompensate => None,
            Verb::ForceComplete => {
                is_compensating.then_some("it is being compensated: skip what cannot be")
            }
            Verb::Skip { direction, .. } if !self.goes(*direction) => {
                Some("it has turned back since")
            }
            Verb::Retry { step } | Verb::Skip { step, .. } if !self.has_turn(step) => {
                Some("it is not this step's turn, or it is done")
            }
            Verb::Retry { step } => return self.why_not_retried(step),
            Verb::Skip { .. } => None,
        };
        state.map(Refusal::State)
    }

    /// Whether it is so already, whoever wanted that.
    #[must_use]
    pub fn is_so(&self, verb: &Verb) -> bool {
        match verb {
            Verb::Cancel | Verb::ForceCompensate => {
                matches!(self.phase, Phase::Compensating | Phase::Compensated)
                    && !self.is_paused_on_its_way_back()
            }
            Verb::ForceComplete => self.phase == Phase::Completed,
            Verb::Pause => self.paused && !self.has_ended(),
            Verb::Resume | Verb::Look { .. } | Verb::Retry { .. } | Verb::Skip { .. } => false,
        }
    }

    /// Whoever cancels it wants its compensations to go on.
    fn is_paused_on_its_way_back(&self) -> bool {
        self.paused && self.phase == Phase::Compensating
    }

    /// Whether it goes this way now.
    fn goes(&self, direction: Option<Direction>) -> bool {
        match direction.unwrap_or(Direction::Action) {
            Direction::Action => self.phase == Phase::Forward,
            Direction::Compensation => self.phase == Phase::Compensating,
        }
    }

    fn can_retry(&self, step: &str) -> bool {
        let Some(step) = self.checked.index_of(step) else { return false };
        let state = &self.steps[step];
        !self.paused && self.is_open(step) && (state.held || state.retry_at.is_some())
    }

    /// Why a step whose turn it is cannot be tried again, if so.
    fn why_not_retried(&self, step: &str) -> Option<Refusal> {
        let waits = |step: usize| match &self.checked.steps()[step].wait {
            Some(Wait::Signal { .. }) => {
                Some("this step waits for a signal: send that, or skip it")
            }
            Some(Wait::ForMs(_)) => Some("this step waits for a time: skip it"),
            None => None,
        };
        let its = self.checked.index_of(step)?;
        let state = match waits(its).filter(|_| self.is_wait(its) && !self.steps[its].held) {
            _ if self.can_retry(step) || self.sabotage.has(Defect::PromiseRetry) => return None,
            None if self.paused => "it is paused: resume it",
            None => return Some(Refusal::UnderWay),
            Some(waits) => waits,
        };
        Some(Refusal::State(state))
    }

    fn has_turn(&self, step: &str) -> bool {
        self.checked.index_of(step).is_some_and(|step| self.is_open(step))
    }

    /// Whether it is this step's turn, be it held or not.
    fn is_open(&self, step: usize) -> bool {
        let state = &self.steps[step];
        match self.phase {
            Phase::Forward => state.attempted && state.stage == Stage::Open,
            Phase::Compensating => {
                let behind = self.checked.behind(step);
                !self.is_made_good(step) && behind.iter().all(|other| self.is_made_good(*other))
            }
            Phase::Completed | Phase::Compensated => false,
        }
    }
}

//! The steps that a saga is at, for who asks why it does not go on.

use super::{Direction, Saga, fold::Stage, journal::Awaited};
use crate::{Text, Timestamp};

/// A step that a saga is at: what has to come before it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenStep {
    /// Its name.
    pub step: Text,
    /// Which way it is carried out.
    pub direction: Direction,
    /// Who carries it out; nobody, where it only waits.
    pub participant: Option<Text>,
    /// Attempts that have ended, this way.
    pub attempts: u32,
    /// When the next attempt begins, or until when it waits; none while it is carried out, or for as long as it takes.
    pub at: Option<Timestamp>,
    /// The signal that it waits for.
    pub signal: Option<Awaited>,
    /// Whether a person has to decide about it.
    pub needs_operator: bool,
}

impl Saga {
    /// The steps that it is at, in the order in which they are declared.
    #[must_use]
    pub fn open_steps(&self) -> Vec<OpenStep> {
        let is_held =
            |step: usize| self.steps[step].held && self.steps[step].stage != Stage::Compensated;
        let awaited = self.awaited();
        let open = |step: usize| {
            let (state, known) = (&self.steps[step], &self.checked.steps()[step]);
            let direction = self.direction();
            let waits = direction == Direction::Action && known.wait.is_some();
            let participant = match direction {
                _ if waits => None,
                Direction::Action => Some(known.action()),
                Direction::Compensation => known.compensated_by(),
            };
            let name = self.name(step);
            OpenStep {
                participant: participant.map(|name| Text::from(name.to_owned())),
                attempts: state.attempts,
                at: state.retry_at.or_else(|| waits.then(|| self.waits_until(step)).flatten()),
                signal: awaited.iter().find(|one| waits && one.step == name).cloned(),
                needs_operator: state.held,
                step: name,
                direction,
            }
        };
        let at = (0..self.steps.len()).filter(|step| self.is_runnable(*step) || is_held(*step));
        if self.has_ended() { Vec::new() } else { at.map(open).collect() }
    }

    /// Which way its steps are carried out now.
    pub(super) fn direction(&self) -> Direction {
        match self.phase {
            super::Phase::Compensating => Direction::Compensation,
            _ => Direction::Action,
        }
    }
}

//! What the rows of a saga are to say: its next transition, what it waits for, and until when.

use std::time::Duration;

use super::{
    Entry, Json, Phase, Saga,
    journal::{Awaits, Standing, State, Transition, Waits, encode},
};
use crate::{Partition, Result, Timestamp};

impl Saga {
    /// The next transition, which says that `entries` were decided at `time`, and what changes on the rows
    /// of this saga, which belongs to `partition`.
    ///
    /// # Errors
    /// As [`encode`].
    pub fn next_transition(
        &mut self,
        partition: Partition,
        time: Timestamp,
        entries: &[Entry],
    ) -> Result<Transition> {
        let json = encode(entries)?;
        self.version += 1;
        let standing = self.stands();
        let standing = (standing != self.standing).then(|| {
            self.standing = standing.clone();
            standing
        });
        let awaiting = self.to_await();
        let awaits = (awaiting != self.awaiting).then(|| {
            self.awaiting = awaiting;
            Awaits { partition, signals: self.awaited() }
        });
        let takes = entries.iter().find_map(|entry| match entry {
            Entry::Signalled { signal, .. } => Some(signal.clone()),
            _ => None,
        });
        let (saga, version) = (self.id, self.version);
        Ok(Transition { saga, version, time, entries: json, standing, awaits, takes })
    }

    /// What its row is to say: the one thing that an unfinished saga waits for.
    pub(super) fn stands(&self) -> Standing {
        let held = self.steps.iter().any(|state| state.held);
        let state = match self.phase {
            Phase::Completed => State::Completed,
            Phase::Compensated => State::Compensated,
            _ if held => State::NeedsOperator,
            Phase::Forward => State::Running,
            Phase::Compensating => State::Compensating,
        };
        let (waits, due) = if self.has_ended() {
            (Waits::Nothing, None)
        } else if self.handed_back.is_some() {
            (Waits::Timer, self.handed_back)
        } else if self.has_attempts_to_make() || self.in_flight.iter().any(Option::is_some) {
            (Waits::Lease, None)
        } else {
            let waits = if self.waiting().is_empty() { Waits::Timer } else { Waits::Signal };
            self.next_time().map_or((Waits::Operator, None), |at| (waits, Some(at)))
        };
        let output = (self.phase == Phase::Completed).then(|| self.output());
        Standing { state, waits, due, output }
    }

    pub(super) fn has_attempts_to_make(&self) -> bool {
        let is_one = |step: &usize| self.steps[*step].retry_at.is_none() && !self.is_wait(*step);
        !self.paused && self.runnable().iter().any(is_one)
    }

    /// What a completed saga answers. A pointer that leads nowhere answers `null`.
    fn output(&self) -> Json {
        let Some(mapping) = &self.checked.definition().output else { return Json::NULL };
        let outputs = |name: &str| {
            let found = self.checked.index_of(name)?;
            self.steps.get(found)?.output.clone()
        };
        mapping.resolve(&self.input, &outputs).unwrap_or(Json::NULL)
    }

    /// When [`Input::Time`] is due, if it ever is.
    #[must_use]
    pub fn next_time(&self) -> Option<Timestamp> {
        if self.has_ended() || self.paused {
            return None;
        }
        let time = |step: usize| match self.is_wait(step) {
            true => self.waits_until(step),
            false => self.steps[step].retry_at,
        };
        self.runnable().into_iter().filter_map(time).chain(self.deadline()).min()
    }

    /// When the saga's own time is over, while that still means something.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        let limit = Duration::from_millis(self.checked.definition().timeout_ms?);
        (self.phase == Phase::Forward && !self.overdue).then(|| self.started_at.plus(limit))
    }

    pub(super) fn is_expired(&self, now: Timestamp) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }
}

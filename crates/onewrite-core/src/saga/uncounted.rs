//! Attempts that use up no budget: nobody is there to make them, or what they look at goes on elsewhere.

use std::time::Duration;

use super::{Entry, Phase, Saga};
use crate::{Text, Timestamp};

/// The longest pause before it is looked again whether somebody is there to make an attempt, at first, and
/// after hours.
pub(super) const NOT_MADE_PAUSE: Duration = Duration::from_secs(5);
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(300);

/// What part of how long it has been so the pauses are at least.
const NOT_MADE_SHARE: u32 = 10;
const UNDER_WAY_SHARE: u32 = 20;

impl Saga {
    /// Nobody was there to make the attempt: the next one has the same number.
    pub(super) fn not_made(&self, now: Timestamp, step: usize, jitter: f64, reason: Text) -> Entry {
        let state = &self.steps[step];
        let pause = self.policy(step).pause(u32::MAX, jitter).min(NOT_MADE_PAUSE);
        let pause = pause.max(self.uncounted_pause(now, step, NOT_MADE_SHARE));
        let attempt = state.attempts;
        Entry::Retrying { step: self.name(step), attempt, at: now.plus(pause), reason }
    }

    /// It goes on elsewhere, and is well: what failed before it was seen so is forgiven, for it may go on for
    /// longer than any budget lasts. What was told while this attempt looked may be what it did not see: it
    /// looks again.
    pub(super) fn under_way(
        &self,
        now: Timestamp,
        step: usize,
        look_in: Duration,
        reason: Text,
    ) -> Entry {
        let state = &self.steps[step];
        let pause = look_in.max(self.uncounted_pause(now, step, UNDER_WAY_SHARE));
        let at = if state.told { now } else { now.plus(pause) };
        Entry::Retrying { step: self.name(step), attempt: 0, at, reason }
    }

    /// Whether it makes a difference to this step that what it waits for elsewhere has ended.
    pub(super) fn heeds(&self, step: &str) -> bool {
        let Some(step) = self.checked.index_of(step) else { return false };
        let held = self.phase == Phase::Forward && self.steps[step].held;
        held || self.runnable().contains(&step)
    }

    /// Each costs rows of the journal, so the pauses grow with how long it has been so.
    fn uncounted_pause(&self, now: Timestamp, step: usize, share: u32) -> Duration {
        let since = self.steps[step].uncounted_since;
        let long = since.map(|since| now.since(since) / share).unwrap_or_default();
        long.min(PAUSE_MAX)
    }
}

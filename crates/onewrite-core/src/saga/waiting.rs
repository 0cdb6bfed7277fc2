//! The steps of a saga that wait: until when, for which signals, and what follows.

use std::time::Duration;

use super::{
    Entry, Json, Kind, Phase, Saga, Wait, fold::Stage, journal::Awaited, wait::correlation_of,
};
use crate::{Text, Timestamp};

impl Saga {
    /// Whether this step waits now, instead of being carried out. (A compensation is carried out.)
    pub(super) fn is_wait(&self, step: usize) -> bool {
        self.phase == Phase::Forward && self.checked.steps()[step].wait.is_some()
    }

    /// The steps that wait for a signal now, and for nobody else.
    pub(super) fn waiting(&self) -> Vec<usize> {
        self.to_await().into_iter().filter(|step| !self.steps[*step].held).collect()
    }

    /// The steps whose signals are of use now, be they held or not.
    pub(super) fn to_await(&self) -> Vec<usize> {
        let is_of_use = |step: &usize| {
            let state = &self.steps[*step];
            let waits = matches!(self.checked.steps()[*step].wait, Some(Wait::Signal { .. }));
            waits && self.is_wait(*step) && state.attempted && state.stage == Stage::Open
        };
        (0..self.steps.len()).filter(is_of_use).collect()
    }

    /// The signals that it waits for.
    #[must_use]
    pub fn awaited(&self) -> Vec<Awaited> {
        let signal = |step: usize| {
            let Some(Wait::Signal { name, .. }) = &self.checked.steps()[step].wait else {
                return None;
            };
            // One that leads nowhere is never waited for: its time is over at once.
            let correlation = self.correlation(step).ok()?;
            Some(Awaited { step: self.name(step), name: name.clone().into(), correlation })
        };
        self.to_await().into_iter().filter_map(signal).collect()
    }

    /// What the signal of a step has to be about.
    fn correlation(&self, step: usize) -> Result<Text, String> {
        let Some(mapping) = self.checked.steps()[step].correlation() else {
            return Err("waits for no signal".into());
        };
        let outputs = |name: &str| {
            let found = self.checked.index_of(name)?;
            self.steps.get(found)?.output.clone()
        };
        let value = mapping.resolve(&self.input, &outputs)?;
        correlation_of(&value).map_err(|why| format!("the correlation {why}"))
    }

    /// Until when a step waits. For a signal it waits no longer than this.
    pub(super) fn waits_until(&self, step: usize) -> Option<Timestamp> {
        let (state, known) = (&self.steps[step], &self.checked.steps()[step]);
        let time = match &known.wait {
            Some(Wait::ForMs(time)) => *time,
            Some(Wait::Signal { .. }) if self.correlation(step).is_err() => 0,
            Some(Wait::Signal { .. }) => known.step_timeout_ms?,
            None => return None,
        };
        Some(state.since.plus(Duration::from_millis(time)))
    }

    /// The first time at which it is too late for a signal that it waits for: it is told of that only when no
    /// signal that came before may have been overlooked.
    #[must_use]
    pub fn first_deadline(&self) -> Option<Timestamp> {
        // One that leads nowhere is never waited for.
        let comes = |step: &usize| self.correlation(*step).is_ok();
        let awaited: Vec<usize> = self.awaiting.iter().copied().filter(comes).collect();
        if awaited.is_empty() {
            return None;
        }
        let open = awaited.into_iter().filter(|step| !self.steps[*step].held);
        open.filter_map(|step| self.waits_until(step)).chain(self.deadline()).min()
    }

    /// What follows for the steps whose waiting is over.
    pub(super) fn waited(&self, now: Timestamp) -> Vec<Entry> {
        let mut entries = Vec::new();
        for step in self.runnable().into_iter().filter(|step| self.is_wait(*step)) {
            if self.waits_until(step).is_none_or(|until| until > now) {
                continue;
            }
            if let Some(Wait::ForMs(_)) = self.checked.steps()[step].wait {
                let (step, attempt) = (self.name(step), 1);
                entries.push(Entry::Done { step, attempt, output: Json::NULL });
                continue;
            }
            let late = "no signal came in time".to_owned();
            let why = self.correlation(step).err().unwrap_or(late);
            let entry = self.no_signal(step, why.into());
            let turns = matches!(entry, Entry::Failed { .. });
            entries.push(entry);
            if turns {
                break;
            }
        }
        entries
    }

    /// The signal of a step did not come: it fails where there is a way out, or a person has to look.
    fn no_signal(&self, step: usize, reason: Text) -> Entry {
        let (name, attempt) = (self.name(step), 1);
        match self.checked.steps()[step].kind {
            Kind::Retriable => Entry::Held { step: name, attempt, reason },
            Kind::Compensatable | Kind::Pivot => Entry::Failed { step: name, attempt, reason },
        }
    }

    /// The signal that a step waits for has come.
    pub(super) fn signalled(&self, step: usize, signal: Text, output: Json) -> Option<Entry> {
        let waits = self.to_await().contains(&step);
        waits.then(|| Entry::Signalled { step: self.name(step), signal, output })
    }
}

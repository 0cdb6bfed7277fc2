//! Who carries out steps.

use std::{collections::HashMap, sync::Arc, time::Instant};

use onewrite_core::{
    BoxFuture,
    lease::Epoch,
    saga::{Direction, Ended, Json, SagaId, StepKey},
};

/// One attempt, as a participant is given it.
#[derive(Debug, Clone)]
pub struct Call {
    /// The saga.
    pub saga: SagaId,
    /// The same for every attempt at this action or compensation: what makes a repetition harmless.
    pub key: StepKey,
    /// Whether it is the action or the compensation.
    pub direction: Direction,
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// The epoch of the lease under which it is made. A participant may refuse an older one than it has
    /// seen for this saga.
    pub epoch: Epoch,
    /// When its outcome becomes unknown.
    pub deadline: Instant,
    /// What the step is given.
    pub input: Json,
    /// What the action answered, for its compensation, where that is known.
    pub output: Option<Json>,
}

/// Carries out the actions or compensations of one name.
///
/// It may be called several times with the same key, also at the same time, and a compensation may be
/// called for an action that never had an effect. All of that must be harmless.
pub trait Participant: Send + Sync {
    /// Makes one attempt. The future is dropped at the deadline; the outcome is unknown then.
    fn act(&self, call: Call) -> BoxFuture<'static, Ended>;
}

impl<F> Participant for F
where
    F: Fn(Call) -> BoxFuture<'static, Ended> + Send + Sync,
{
    fn act(&self, call: Call) -> BoxFuture<'static, Ended> {
        self(call)
    }
}

/// The participants of one process, by name.
#[derive(Clone, Default)]
pub struct Participants {
    named: HashMap<String, Arc<dyn Participant>>,
}

impl Participants {
    /// Adds one, in the place of an earlier one of this name.
    pub fn add(&mut self, name: impl Into<String>, participant: Arc<dyn Participant>) {
        self.named.insert(name.into(), participant);
    }

    /// The one of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<dyn Participant>> {
        self.named.get(name).cloned()
    }
}

impl std::fmt::Debug for Participants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.named.keys()).finish()
    }
}

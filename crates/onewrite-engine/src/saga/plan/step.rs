//! What a step's function is handed, and what it answers.

use std::{ops::Deref, sync::Arc, time::Duration};

use onewrite_core::{
    lease::Epoch,
    saga::{Barrier, Call, Direction, SagaId, StepKey},
};

/// Why an action did not succeed.
///
/// Any error becomes one by `?`: the step is tried again with the same key. [`StepError::abort`] says no
/// for good.
#[derive(Debug)]
pub struct StepError(pub(super) Why);

#[derive(Debug)]
pub(super) enum Why {
    Abort(String),
    Retry(String),
}

/// What an action answers.
pub type StepResult<T> = Result<T, StepError>;

impl StepError {
    /// The business says no: the step is not tried again, and the saga is compensated. The reason is
    /// stored; it should hold no personal data.
    pub fn abort(reason: impl Into<String>) -> Self {
        Self(Why::Abort(reason.into()))
    }

    /// It failed, or nobody knows whether it did: the step is tried again.
    pub fn retry(reason: impl Into<String>) -> Self {
        Self(Why::Retry(reason.into()))
    }
}

impl<E: std::error::Error> From<E> for StepError {
    fn from(error: E) -> Self {
        Self::retry(error.to_string())
    }
}

/// Why a compensation, or a step behind the pivot, did not succeed: it is tried again with the same key,
/// for there is no other way. Any error becomes one by `?`.
#[derive(Debug)]
pub struct Retry(pub(super) String);

impl Retry {
    /// The reason is stored; it should hold no personal data.
    pub fn because(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl<E: std::error::Error> From<E> for Retry {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// What a step's function is handed: the services given to the runner, and what identifies the attempt.
#[derive(Debug)]
pub struct Cx<S> {
    pub(super) services: Arc<S>,
    pub(super) call: Call,
    /// It makes a completed child good.
    pub(super) of_child: bool,
}

impl<S> Cx<S> {
    pub(super) fn new(services: Arc<S>, call: Call) -> Self {
        Self { services, call, of_child: false }
    }

    /// The same for every attempt: hand it to whoever carries out the effect.
    #[must_use]
    pub fn key(&self) -> &StepKey {
        &self.call.key
    }

    /// The saga.
    #[must_use]
    pub fn saga(&self) -> SagaId {
        self.call.saga
    }

    /// What to pass first, within the transaction of the participant's own that carries out the effect: it
    /// makes repetitions, empty compensations and late actions harmless.
    ///
    /// # Errors
    /// [`onewrite_core::Code::InvalidInput`] for a step whose name is too long for the barrier's table.
    pub fn barrier(&self) -> onewrite_core::Result<Barrier> {
        let (saga, step) = (self.call.saga, &*self.call.step);
        match self.call.direction {
            Direction::Action => Barrier::action(saga, step),
            // The child's steps passed barriers of their own: there is no row of this action.
            Direction::Compensation if self.of_child => {
                Barrier::new("saga", &saga.to_string(), step, "make_good")
            }
            Direction::Compensation => Barrier::compensation(saga, step),
        }
    }

    /// The attempt's number, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.call.attempt
    }

    /// The epoch of the lease under which the attempt is made: a participant may refuse an older one than
    /// it has seen.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.call.epoch
    }

    /// How much time is left before the outcome is taken for unknown.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        let now = tokio::time::Instant::now().into_std();
        self.call.deadline.saturating_duration_since(now)
    }
}

impl<S> Deref for Cx<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.services
    }
}

impl From<Retry> for StepError {
    fn from(Retry(reason): Retry) -> Self {
        Self::retry(reason)
    }
}

//! Who carries out steps.

use std::{sync::Arc, time::Instant};

use super::{Direction, Ended, Json, SagaId, StepKey};
use crate::{
    BoxFuture, Result, Text,
    lease::Epoch,
    store::{Item, Outcome},
};

/// One attempt, as a participant is given it.
#[derive(Debug, Clone)]
pub struct Call {
    /// The saga.
    pub saga: SagaId,
    /// The step's name.
    pub step: Text,
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
    /// Makes one attempt. The future is dropped at the deadline; the outcome is unknown then, and where it
    /// panics.
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

/// Makes of a step's output the item that journals it. A transaction may be repeated, and asks again then.
pub type Journaling = Arc<dyn Fn(Json) -> Result<Item> + Send + Sync>;

/// What became of an attempt in a transaction.
#[derive(Debug)]
pub enum Transacted {
    /// The function succeeded; what became of the item that was written with its effect. Unless it was
    /// applied, there is no effect either.
    Written(Outcome),
    /// The function did not succeed, and has no effect.
    Ended(Ended),
}

/// Carries out the actions or compensations of one name in the very transaction that journals them.
///
/// 1. **one commit**: the function's effect and the item are committed together or not at all.
/// 2. **fenced**: under a lease that another owner holds by now, there is no effect.
/// 3. **next version**: where the journal has gone on meanwhile, there is no effect.
///
/// So the effect happens once, although the function may run several times, and needs no key.
pub trait Transactional: Send + Sync {
    /// Makes one attempt: runs the function, writes what `journal` makes of its output, and commits.
    ///
    /// # Errors
    /// What the store says: [`crate::Code::CommitUnknown`] when nobody knows whether it is committed; with
    /// any other there is no effect.
    fn act(&self, call: Call, journal: Journaling) -> BoxFuture<'static, Result<Transacted>>;
}

impl<F> Transactional for F
where
    F: Fn(Call, Journaling) -> BoxFuture<'static, Result<Transacted>> + Send + Sync,
{
    fn act(&self, call: Call, journal: Journaling) -> BoxFuture<'static, Result<Transacted>> {
        self(call, journal)
    }
}

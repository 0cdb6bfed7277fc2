//! Attempts, and the facts that a saga is told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Json, SagaId, StepKey, Verb};
use crate::{Result, Text, Timestamp};

/// Which way a step is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Its action.
    Action,
    /// Its compensation.
    Compensation,
}

/// One try at a step, to be made now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The saga.
    pub saga: SagaId,
    /// The step's index.
    pub step: usize,
    /// Which way.
    pub direction: Direction,
    /// Its number, from 1.
    pub number: u32,
    /// The same for every attempt.
    pub key: StepKey,
    /// What the step is given, or the pointer that leads nowhere.
    pub input: Result<Json, Text>,
    /// What the action answered, for its compensation, where that is known.
    pub output: Option<Json>,
    /// When its outcome becomes unknown.
    pub deadline: Timestamp,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It succeeded.
    Done(Json),
    /// The business says no: it is not tried again. A compensation cannot say that.
    Aborted(Text),
    /// It failed, or nobody knows: it is tried again with the same key.
    Unknown(Text),
    /// It was not made, for there was nobody to make it: it is tried again, and does not count.
    NotMade(Text),
    /// It is under way elsewhere, and may be for long: it is looked at again once the saga is told to
    /// ([`Verb::Look`]), or after so long. That does not count, and neither does what failed before it.
    UnderWay {
        /// When it is looked at again at the latest.
        look_in: Duration,
        /// What is under way.
        reason: Text,
    },
}

/// A fact for the machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// An attempt ended. `jitter` is uniform in `0.0 .. 1.0`.
    Ended {
        /// The step's index.
        step: usize,
        /// Which way.
        direction: Direction,
        /// The attempt's number.
        number: u32,
        /// How.
        how: Ended,
        /// Spreads the retries.
        jitter: f64,
    },
    /// A signal came that a step waits for, and that nobody has taken yet.
    Signalled {
        /// The step's index.
        step: usize,
        /// The signal's id.
        signal: Text,
        /// What it brings.
        payload: Json,
    },
    /// Its time has come, or may have.
    Time,
    /// This owner carries on what another one left unfinished.
    TakenOver,
    /// This owner leaves, and nothing is in flight here.
    HandBack,
    /// Somebody wants something of it.
    Wanted {
        /// What.
        verb: Verb,
        /// Who.
        actor: Text,
        /// Why.
        reason: Text,
    },
}

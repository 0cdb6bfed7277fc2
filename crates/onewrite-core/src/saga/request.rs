//! What a person, or a child, wants of a saga that another process may run: kept as a signal until its owner
//! takes it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Direction, Entry, Input, Json, SagaId, Signal};
use crate::{Result, Text};

/// The name of the signals that are requests: they are about a saga's id, and need nobody who waits.
pub const REQUEST: Text = Text::from_static("onewrite.request");

/// How long a request stands that nobody takes.
pub const STANDS: Duration = Duration::from_secs(3_600);

/// What is wanted of a saga.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Identifies it.
    pub id: Text,
    /// What is to be done.
    pub verb: Verb,
    /// Who wants it.
    pub actor: Text,
    /// Why.
    pub reason: Text,
}

/// What can be wanted of a saga.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Compensate it, unless it is past its pivot.
    Cancel,
    /// Let held steps try again, and go on with what was paused.
    Resume,
    /// Begin nothing more, and let no time be over, until it is resumed. What is in flight ends.
    Pause,
    /// Try a step at once, with a new budget: one that is held, or that waits to be tried again, of a saga that is not
    /// paused. While its participant is held, that is once it is released.
    Retry {
        /// The step's name.
        step: Text,
    },
    /// Go on as if a step, whose turn it is, were done; while compensating, as if it were made good. Its
    /// compensation runs all the same, should it come to that.
    Skip {
        /// The step's name.
        step: Text,
        /// What it is to have answered.
        output: Json,
        /// Which way: of a saga that has turned since, it is refused. Its action unless it is said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        direction: Option<Direction>,
    },
    /// Compensate what was attempted, past the pivot as well. What has no compensation stays as it is.
    ForceCompensate,
    /// End it as completed, whatever was not done.
    ForceComplete,
    /// Look at what this step waits for elsewhere: it has ended.
    Look {
        /// The step's name.
        step: Text,
    },
}

impl Request {
    /// The signal that it is kept as.
    ///
    /// # Errors
    /// [`crate::Code::InvalidInput`], which a request is not.
    pub fn signal(&self, saga: SagaId) -> Result<Signal> {
        let signal = Signal::new(self.id.clone(), REQUEST, saga.to_string());
        signal.keep(STANDS).payload(self)
    }

    /// The fact that it is for the saga.
    #[must_use]
    pub fn input(self) -> Input {
        let Self { verb, actor, reason, .. } = self;
        Input::Wanted { verb, actor, reason }
    }

    /// Whether what was written about the saga since this was asked says that it was heeded; of what needs no heed, that
    /// it was.
    #[must_use]
    pub fn is_heeded(&self, journal: &[Entry]) -> bool {
        let is_it = |entry: &Entry| match (&self.verb, entry) {
            (Verb::Cancel | Verb::ForceCompensate, entry) => entry.turns_back(),
            (Verb::Pause, Entry::Paused { actor, reason }) => {
                *actor == self.actor && *reason == self.reason
            }
            (Verb::Retry { step }, Entry::Retried { step: its, actor, reason })
            | (Verb::Skip { step, .. }, Entry::Skipped { step: its, actor, reason, .. }) => {
                step == its && *actor == self.actor && *reason == self.reason
            }
            (Verb::ForceComplete, Entry::ForceCompleted { .. }) => true,
            _ => false,
        };
        self.verb.needs_no_heed() || journal.iter().any(is_it)
    }
}

impl Verb {
    /// Whether nothing need follow from it: what was to go on may go on already.
    #[must_use]
    pub fn needs_no_heed(&self) -> bool {
        matches!(self, Self::Resume | Self::Look { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_sent() {
        let (id, actor, reason) = ("r-1".into(), "ann".into(), "so".into());
        let request = Request { id, verb: Verb::Cancel, actor, reason };
        let signal = request.signal(SagaId(7)).unwrap();
        assert_eq!(&*signal.correlation, "00000000-0000-0000-0000-000000000007");
        assert_eq!(signal.payload.read::<Request>("a request").unwrap(), request);
        let (verb, actor) = (Verb::Cancel, "ann".into());
        let input = Input::Wanted { verb, actor, reason: "so".into() };
        assert_eq!(request.input(), input);
    }
}

//! What a person, or a child, wants of a saga that another process may run: kept as a signal until its owner
//! takes it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Input, SagaId, Signal};
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
    /// Let held steps try again.
    Resume,
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
        match verb {
            Verb::Cancel => Input::Cancel { actor, reason },
            Verb::Resume => Input::Resume { actor, reason },
            Verb::Look { step } => Input::Look { step, actor, reason },
        }
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
        let input = Input::Cancel { actor: "ann".into(), reason: "so".into() };
        assert_eq!(request.input(), input);
    }
}

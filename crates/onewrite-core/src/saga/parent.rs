//! What a saga is a step of, and how that step is told that the saga has ended.

use std::{fmt, str::FromStr};

use super::{Request, SagaId, StepKey, Verb, journal::State};
use crate::{Code, Error, Text};

/// The step that a saga is: it was started by another saga, and that one waits for its end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Parent {
    /// The other saga.
    pub saga: SagaId,
    /// Its step.
    pub step: Text,
}

impl Parent {
    /// What its child is about: the key of the step, so that a step has one child, however often it is
    /// started.
    #[must_use]
    pub fn child_key(&self) -> StepKey {
        StepKey::action(self.saga, &self.step)
    }

    /// What the parent is told once `child` has ended as `state`. It is a hint to look, so it may be lost: a
    /// step that waits looks by itself as well, though rarely.
    #[must_use]
    pub fn told(&self, child: SagaId, state: State) -> Request {
        Request {
            id: format!("{child}/ended").into(),
            verb: Verb::Look { step: self.step.clone() },
            actor: child.to_string().into(),
            reason: Text::from_static(state.as_str()),
        }
    }
}

/// As it is stored: `01964b2e-7d1c-7a00-8000-0123456789ab/ship`.
impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.saga, self.step)
    }
}

impl FromStr for Parent {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parts = text.split_once('/').filter(|(_, step)| !step.is_empty());
        let (saga, step) = parts.ok_or_else(|| {
            Error::new(Code::Corrupt, format!("`{text}` is not the step of a saga"))
        })?;
        Ok(Self { saga: saga.parse()?, step: step.to_owned().into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_as_it_is_stored() {
        let parent = Parent { saga: SagaId(7), step: "ship".into() };
        assert_eq!(parent.to_string(), "00000000-0000-0000-0000-000000000007/ship");
        assert_eq!(parent.to_string().parse::<Parent>().unwrap(), parent);
        assert_eq!(parent.child_key().as_str(), parent.to_string());
        for bad in ["", "ship", "00000000-0000-0000-0000-000000000007/", "7/ship"] {
            assert!(bad.parse::<Parent>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_child_tells_of_its_end_once() {
        let parent = Parent { saga: SagaId(7), step: "ship".into() };
        let told = parent.told(SagaId(8), State::Compensated);
        assert_eq!(&*told.id, "00000000-0000-0000-0000-000000000008/ended");
        assert_eq!((told.verb, &*told.reason), (Verb::Look { step: "ship".into() }, "compensated"));
    }
}

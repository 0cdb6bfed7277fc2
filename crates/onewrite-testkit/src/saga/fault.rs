//! What can go wrong at a step, and which of it a step has to bear.

use std::fmt;

use onewrite_core::saga::{Compensation, Definition, Kind, Step};

/// What goes wrong at one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nothing does.
    None,
    /// It says no for good, and has no effect.
    Fails,
    /// It takes effect and its answer is lost: it is made again, with the same key.
    Repeated,
    /// It does not answer within its time: it is made again, with the same key.
    Hangs,
    /// Its process ends before it takes effect, and another one carries on.
    CrashBefore,
    /// Its process ends after it took effect, and another one carries on.
    CrashAfter,
    /// The last step that can say no does so, and the answer of this one's compensation is lost: it is made
    /// again, with the same key.
    CompensatedTwice,
    /// It fails and is compensated, and an earlier attempt arrives only then.
    Late,
}

impl Fault {
    /// Every fault of a step.
    pub const ALL: [Self; 7] = [
        Self::Fails,
        Self::Repeated,
        Self::Hangs,
        Self::CrashBefore,
        Self::CrashAfter,
        Self::CompensatedTwice,
        Self::Late,
    ];

    /// Whether it can happen to this step.
    #[must_use]
    pub fn can_happen_to(self, step: &Step) -> bool {
        let compensated = matches!(step.compensation, Compensation::By(_));
        match self {
            Self::None => false,
            _ if step.wait.is_some() => false,
            Self::Fails => step.kind != Kind::Retriable,
            Self::CompensatedTwice | Self::Late => compensated,
            Self::Repeated | Self::Hangs | Self::CrashBefore | Self::CrashAfter => true,
        }
    }
}

/// As the end of a sentence about a step.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "nothing goes wrong",
            Self::Fails => "it says no",
            Self::Repeated => "its answer is lost, and it is made again",
            Self::Hangs => "it does not answer in time, and is made again",
            Self::CrashBefore => "its process ends before it",
            Self::CrashAfter => "its process ends after it",
            Self::CompensatedTwice => "its compensation is made twice",
            Self::Late => "it arrives after its compensation",
        })
    }
}

/// The last step that can say no.
pub(super) fn last_to_fail(definition: &Definition) -> Option<&Step> {
    definition.steps.iter().rev().find(|step| Fault::Fails.can_happen_to(step))
}

//! What is written about a saga: the durable facts of its journal.

use serde::{Deserialize, Serialize};

use super::Json;
use crate::{Text, Timestamp};

/// One fact about a saga. Steps are named, so that the journal can be read beside the definition.
///
/// The facts of one transition stand together, as a JSON array in one row of the journal:
/// `[{"done":{"step":"reserve","attempt":1,"output":{"hold":7}}}]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Entry {
    /// The action succeeded.
    Done {
        /// Which step.
        step: Text,
        /// In which attempt, from 1.
        attempt: u32,
        /// What it answered.
        output: Json,
    },
    /// The signal that the step waited for came. It was taken in the same commit.
    Signalled {
        /// Which step.
        step: Text,
        /// The signal's id.
        signal: Text,
        /// What it brought.
        output: Json,
    },
    /// An attempt at the action or, while compensating, at the compensation failed, has an unknown outcome
    /// or found that all is under way elsewhere, and another follows.
    Retrying {
        /// Which step.
        step: Text,
        /// Which attempt failed; the one before, if this one does not count; 0, and the next one is the first
        /// again, if all is under way elsewhere.
        attempt: u32,
        /// When the next one begins.
        at: Timestamp,
        /// Why, without payload.
        reason: Text,
    },
    /// The step failed for good: what was attempted is compensated, this step included.
    Failed {
        /// Which step.
        step: Text,
        /// In which attempt.
        attempt: u32,
        /// Why, without payload.
        reason: Text,
    },
    /// A step that can neither be given up nor be compensated: a person has to look.
    Held {
        /// Which step.
        step: Text,
        /// In which attempt.
        attempt: u32,
        /// Why, without payload.
        reason: Text,
    },
    /// The compensation succeeded.
    Compensated {
        /// Which step.
        step: Text,
        /// In which attempt.
        attempt: u32,
    },
    /// The saga was not done in time: what was attempted is compensated.
    Expired,
    /// The saga was not done in time, and has passed its pivot: it goes on.
    Overdue,
    /// Somebody asked for it: what was attempted is compensated.
    Cancelled {
        /// Who.
        actor: Text,
        /// Why.
        reason: Text,
    },
    /// Its time has come: paused steps whose pause is over are tried again. Written first, so that an
    /// attempt which ends its process is counted by the next owner.
    Woken,
    /// What the step waits for elsewhere has ended: it is looked at now.
    Told {
        /// Which step.
        step: Text,
        /// Who said so.
        actor: Text,
        /// How it ended.
        reason: Text,
    },
    /// A person holds it: nothing of it begins any more, and no time is over.
    Paused {
        /// Who.
        actor: Text,
        /// Why.
        reason: Text,
    },
    /// A person has a step tried at once, with a new budget.
    Retried {
        /// Which step.
        step: Text,
        /// Who.
        actor: Text,
        /// Why.
        reason: Text,
    },
    /// A person says that a step is done or, while compensating, made good, by whatever means.
    Skipped {
        /// Which step.
        step: Text,
        /// What it is to have answered.
        output: Json,
        /// Who.
        actor: Text,
        /// Why.
        reason: Text,
    },
    /// A person wants what was attempted compensated, past the pivot as well.
    ForceCompensated {
        /// Who.
        actor: Text,
        /// Why.
        reason: Text,
    },
    /// A person says that it is completed, whatever was not done.
    ForceCompleted {
        /// Who.
        actor: Text,
        /// Why.
        reason: Text,
    },
    /// Another owner carries on: what was in flight counts as an attempt with an unknown outcome.
    TakenOver,
    /// Its owner leaves it, with nothing in flight, to whoever owns its partition next.
    HandedBack,
    /// A person lets held steps try again, and goes on with what was paused.
    Resumed {
        /// Who.
        actor: Text,
        /// Why.
        reason: Text,
    },
}

impl Entry {
    /// Whether a saga that goes forward is compensated from here on.
    #[must_use]
    pub fn turns_back(&self) -> bool {
        matches!(
            self,
            Self::Failed { .. }
                | Self::Cancelled { .. }
                | Self::Expired
                | Self::ForceCompensated { .. }
        )
    }

    /// Whether nothing that has not begun by then begins.
    #[must_use]
    pub fn stops(&self) -> bool {
        self.turns_back() || matches!(self, Self::Paused { .. } | Self::ForceCompleted { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::Entry;

    /// Every fact in the form in which journals hold it. Later versions read these and write the same: a line is
    /// added for a new fact, and none is changed (S20).
    const WRITTEN: &[&str] = &[
        r#"{"done":{"step":"a","attempt":1,"output":{"hold":7}}}"#,
        r#"{"signalled":{"step":"a","signal":"s-1","output":null}}"#,
        r#"{"retrying":{"step":"a","attempt":2,"at":1700000000000001,"reason":"no answer"}}"#,
        r#"{"failed":{"step":"a","attempt":3,"reason":"sold out"}}"#,
        r#"{"held":{"step":"a","attempt":4,"reason":"no answer"}}"#,
        r#"{"compensated":{"step":"a","attempt":1}}"#,
        r#""expired""#,
        r#""overdue""#,
        r#"{"cancelled":{"actor":"ann","reason":"so"}}"#,
        r#""woken""#,
        r#"{"told":{"step":"a","actor":"b","reason":"completed"}}"#,
        r#""taken_over""#,
        r#""handed_back""#,
        r#"{"resumed":{"actor":"ann","reason":"mended"}}"#,
        r#"{"paused":{"actor":"ann","reason":"the bank is down"}}"#,
        r#"{"retried":{"step":"a","actor":"ann","reason":"mended"}}"#,
        r#"{"skipped":{"step":"a","output":{"hold":7},"actor":"ann","reason":"by hand"}}"#,
        r#"{"force_compensated":{"actor":"ann","reason":"so"}}"#,
        r#"{"force_completed":{"actor":"ann","reason":"so"}}"#,
    ];

    #[test]
    fn journals_that_were_written_are_read_and_written_the_same() {
        for written in WRITTEN {
            let entry: Entry = serde_json::from_str(written).unwrap();
            assert_eq!(serde_json::to_string(&entry).unwrap(), *written);
        }
    }
}

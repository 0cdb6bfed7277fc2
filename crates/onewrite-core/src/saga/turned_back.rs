//! Why a saga was compensated, for whoever asks how it ended.

use super::{Entry, journal::SavedSaga};
use crate::Text;

/// What turned a saga back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnedBack {
    /// The step that failed, if it was one.
    pub step: Option<Text>,
    /// What it said, or who decided so and why, or that its time was over.
    pub reason: Text,
}

impl SavedSaga {
    /// What turned it back, as far as its journal can be read; `None` of one that was not.
    #[must_use]
    pub fn turned_back(&self) -> Option<TurnedBack> {
        let mut entries = self.journal.iter().filter_map(|line| line.entries().ok()).flatten();
        let (step, reason) = match entries.find(Entry::turns_back)? {
            Entry::Failed { step, reason, .. } => (Some(step), reason),
            Entry::Cancelled { actor, reason } => {
                (None, format!("cancelled by {actor}: {reason}").into())
            }
            Entry::ForceCompensated { actor, reason } => {
                (None, format!("compensated in any case, by {actor}: {reason}").into())
            }
            _ => (None, Text::from_static("it was not done in time")),
        };
        Some(TurnedBack { step, reason })
    }
}

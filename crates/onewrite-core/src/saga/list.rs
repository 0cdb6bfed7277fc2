//! Sagas in a list, for who looks over them: without what they were given, what they answered, and their
//! journals.

use super::{
    Attribute, DefinitionId, Parent, SagaId,
    journal::{SavedSaga, State, Waits, read_words},
};
use crate::{
    Text, Timestamp,
    sabotage::{Defect, Sabotage},
};

/// Which sagas to list: those that all of this is true of. By itself, a hundred of all.
///
/// A store looks for them from the newest on. Unless it is told a name, an attribute, or unfinished states alone, it looks
/// at every saga until it has found as many as it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListSagas {
    /// The name of their definition.
    pub name: Option<Text>,
    /// What they are about.
    pub key: Option<Text>,
    /// Where they stand: in one of these, or anywhere if there are none.
    pub states: Vec<State>,
    /// Started at this time or later.
    pub started_from: Option<Timestamp>,
    /// Started before this time.
    pub started_before: Option<Timestamp>,
    /// Each of these is true of it.
    pub attributes: Vec<Attribute>,
    /// Read on behind this one, the last of the page before.
    pub behind: Option<SagaId>,
    /// At most so many.
    pub limit: usize,
}

impl Default for ListSagas {
    fn default() -> Self {
        Self {
            name: None,
            key: None,
            states: Vec::new(),
            started_from: None,
            started_before: None,
            attributes: Vec::new(),
            behind: None,
            limit: 100,
        }
    }
}

impl ListSagas {
    /// Whether no saga that has ended is asked for: these are few beside those that have, and an index
    /// has them.
    #[must_use]
    pub fn only_unfinished(&self) -> bool {
        !self.states.is_empty() && !self.states.iter().any(|state| state.has_ended())
    }

    /// The attributes that are asked for.
    #[must_use]
    pub fn attributes(&self, sabotage: Sabotage) -> &[Attribute] {
        if sabotage.has(Defect::OverlookAttributes) { &[] } else { &self.attributes }
    }
}

/// A saga in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SagaHead {
    /// Its id.
    pub id: SagaId,
    /// The name of its definition.
    pub name: Text,
    /// What it is about.
    pub key: Text,
    /// Counts the sagas of this name and key, from 0.
    pub run: u32,
    /// Where it stands.
    pub state: State,
    /// What it waits for.
    pub waits: Waits,
    /// Until when, for a timer and a signal.
    pub due: Option<Timestamp>,
    /// When it was started.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// The step that it is, if another saga started it.
    pub parent: Option<Parent>,
    /// What it is run by.
    pub definition: DefinitionId,
    /// Why its row cannot be read, if so. Then its state, its parent and what it waits for are not known, and
    /// say nothing here.
    pub unreadable: Option<Text>,
}

impl SagaHead {
    /// With what the words of its row say, as [`SavedSaga::with_words`].
    #[must_use]
    pub fn with_words(mut self, state: &str, waits: &str, parent: Option<&str>) -> Self {
        match read_words(state, waits, parent) {
            Ok(read) => (self.state, self.waits, self.parent) = read,
            Err(error) => self.unreadable = Some(error.to_string().into()),
        }
        self
    }
}

impl SavedSaga {
    /// As it stands in a list.
    #[must_use]
    pub fn head(&self) -> SagaHead {
        SagaHead {
            id: self.id,
            name: self.name.clone(),
            key: self.key.clone(),
            run: self.run,
            state: self.standing.state,
            waits: self.standing.waits,
            due: self.standing.due,
            started_at: self.started_at,
            ended_at: self.ended_at,
            parent: self.parent.clone(),
            definition: self.definition.clone(),
            unreadable: self.unreadable.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_ones_alone_are_asked_for_when_no_state_has_an_end() {
        let asked = |states: &[State]| {
            ListSagas { states: states.to_vec(), ..ListSagas::default() }.only_unfinished()
        };
        assert!(asked(&[State::Running, State::Compensating, State::NeedsOperator]));
        assert!(!asked(&[]));
        assert!(!asked(&[State::Running, State::Completed]));
        assert!(!asked(&[State::Compensated]));
    }
}

//! The participants of one process.

use std::{collections::HashMap, sync::Arc};

use onewrite_core::saga::{Participant, Transactional};

/// Who carries out the actions or compensations of one name.
#[derive(Clone)]
pub(super) enum Serving {
    /// Somebody outside of the store: answers, and the answer is journaled.
    Elsewhere(Arc<dyn Participant>),
    /// A function in a transaction of the store: its effect and its journal row are one commit.
    InTransaction(Arc<dyn Transactional>),
}

/// Finds who carries out the actions or compensations of a name.
type Find = dyn Fn(&str) -> Option<Arc<dyn Participant>> + Send + Sync;

/// The participants of one process, by name.
#[derive(Clone, Default)]
pub struct Participants {
    named: HashMap<String, Serving>,
    others: Option<Arc<Find>>,
}

impl Participants {
    /// Adds one, in the place of an earlier one of this name.
    pub fn add(&mut self, name: impl Into<String>, participant: Arc<dyn Participant>) {
        self.named.insert(name.into(), Serving::Elsewhere(participant));
    }

    /// Adds one whose effects are committed in the store, together with the journal of the saga.
    pub fn add_transactional(&mut self, name: impl Into<String>, one: Arc<dyn Transactional>) {
        self.named.insert(name.into(), Serving::InTransaction(one));
    }

    /// Finds those that have no name here.
    pub(super) fn find_others(&mut self, find: Arc<Find>) {
        self.others = Some(find);
    }

    /// Puts something around all that were added: what a test interposes.
    pub(super) fn around(
        &mut self,
        elsewhere: impl Fn(Arc<dyn Participant>) -> Arc<dyn Participant>,
        in_transaction: impl Fn(Arc<dyn Transactional>) -> Arc<dyn Transactional>,
    ) {
        for serving in self.named.values_mut() {
            *serving = match serving.clone() {
                Serving::Elsewhere(one) => Serving::Elsewhere(elsewhere(one)),
                Serving::InTransaction(one) => Serving::InTransaction(in_transaction(one)),
            };
        }
    }

    /// The one of this name.
    pub(super) fn get(&self, name: &str) -> Option<Serving> {
        let other = || self.others.as_ref()?(name).map(Serving::Elsewhere);
        self.named.get(name).cloned().or_else(other)
    }
}

impl std::fmt::Debug for Participants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.named.keys()).finish()
    }
}

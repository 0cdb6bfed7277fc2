//! Whom the sagas of a store name: a participant that none of them does is likely misspelt.

use std::collections::BTreeSet;

use onewrite::{
    Result,
    saga::{
        Checked, Definition, Journal,
        journal::{ListSagas, State},
    },
};

/// Sagas that are looked at, of those that have not ended and of all, the newest first: what is held is held for them.
const LOOKED_AT: usize = 1_000;

/// Every participant that the definitions of these sagas name.
///
/// # Errors
/// What the store says.
pub(crate) async fn named(store: &dyn Journal) -> Result<BTreeSet<String>> {
    let unfinished = vec![State::Running, State::Compensating, State::NeedsOperator];
    let mut definitions = BTreeSet::new();
    for states in [unfinished, Vec::new()] {
        let which = ListSagas { states, limit: LOOKED_AT, ..ListSagas::default() };
        definitions.extend(store.list(&which).await?.into_iter().map(|saga| saga.definition));
    }
    let mut names = BTreeSet::new();
    for id in definitions {
        let text = store.definition(&id).await?;
        // One that cannot be read names nobody who could be asked.
        let read = text.and_then(|text| Definition::parse(&text).ok());
        names.extend(read.iter().flat_map(participants).map(str::to_owned));
    }
    Ok(names)
}

/// Whoever carries out or compensates the steps of a definition.
pub(crate) fn participants(checked: &Checked) -> impl Iterator<Item = &str> {
    checked.steps().iter().flat_map(|step| {
        let action = Some(step.action()).filter(|_| step.wait.is_none());
        [action, step.compensated_by()].into_iter().flatten()
    })
}

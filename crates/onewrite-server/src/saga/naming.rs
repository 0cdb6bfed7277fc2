//! What the sagas of a store name: a participant or an attribute that none of them does is likely misspelt.

use std::collections::BTreeSet;

use onewrite::{
    Result,
    saga::{
        Attribute, Checked, Definition, Hold, Journal,
        journal::{ListSagas, State},
    },
};

/// Sagas that are looked at, of those that have not ended and of all, the newest first: what is held is held for them.
const LOOKED_AT: usize = 1_000;

/// Names that a warning tells at most.
const TOLD_MAX: usize = 10;

/// Every participant that the definitions of these sagas name.
///
/// # Errors
/// What the store says.
pub(crate) async fn named(store: &dyn Journal) -> Result<BTreeSet<String>> {
    let definitions = definitions(store).await?;
    Ok(definitions.iter().flat_map(participants).map(str::to_owned).collect())
}

/// Why a participant may be misspelt. None where the store cannot be asked: nothing depends on it.
pub(crate) async fn doubt(store: &dyn Journal, participant: &str) -> Option<String> {
    let names = named(store).await.ok()?;
    if names.iter().any(|name| Hold::would_cover(participant, name)) {
        return None;
    }
    Some(format!(
        "none of the store's latest sagas names `{participant}`{}",
        others("name", &names)
    ))
}

/// Why one of these attributes may be misspelt, as [`doubt`].
pub(crate) async fn doubt_attributes(store: &dyn Journal, asked: &[Attribute]) -> Option<String> {
    if asked.is_empty() {
        return None;
    }
    let definitions = definitions(store).await.ok()?;
    let known = definitions.iter().flat_map(|known| known.definition().attributes.keys().cloned());
    let known: BTreeSet<String> = known.collect();
    let unknown = asked.iter().find(|attribute| !known.contains(&*attribute.name))?;
    let (name, others) = (&unknown.name, others("have", &known));
    Some(format!("none of the store's latest sagas has an attribute `{name}`{others}"))
}

fn others(verb: &str, known: &BTreeSet<String>) -> String {
    let told: Vec<_> = known.iter().take(TOLD_MAX).map(|name| format!("`{name}`")).collect();
    if told.is_empty() { String::new() } else { format!("; they {verb} {}", told.join(", ")) }
}

/// The definitions of these sagas.
async fn definitions(store: &dyn Journal) -> Result<Vec<Checked>> {
    let unfinished = vec![State::Running, State::Compensating, State::NeedsOperator];
    let mut ids = BTreeSet::new();
    for states in [unfinished, Vec::new()] {
        let which = ListSagas { states, limit: LOOKED_AT, ..ListSagas::default() };
        ids.extend(store.list(&which).await?.into_iter().map(|saga| saga.definition));
    }
    let mut definitions = Vec::new();
    for id in ids {
        let text = store.definition(&id).await?;
        // One that cannot be read names nobody who could be asked.
        definitions.extend(text.and_then(|text| Definition::parse(&text).ok()));
    }
    Ok(definitions)
}

/// Whoever carries out or compensates the steps of a definition.
pub(crate) fn participants(checked: &Checked) -> impl Iterator<Item = &str> {
    checked.steps().iter().flat_map(|step| {
        let action = Some(step.action()).filter(|_| step.wait.is_none());
        [action, step.compensated_by()].into_iter().flatten()
    })
}

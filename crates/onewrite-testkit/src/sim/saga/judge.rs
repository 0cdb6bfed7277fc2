//! What must hold of every saga once the world is quiet.

use std::{collections::BTreeSet, sync::Arc};

use onewrite_core::{
    Text,
    saga::{
        Checked, Entry, Phase, Saga,
        journal::{SavedSaga, State},
    },
};
use onewrite_engine::saga::Outcome;

use super::world::Inner;

/// What speaks against this world.
pub(super) fn faults(inner: &Inner) -> Vec<String> {
    let mut faults = Vec::new();
    let mut taken = BTreeSet::new();
    for saved in inner.tables.sagas.values() {
        let Some(checked) = inner.tables.checked(&saved.definition) else {
            faults.push(format!("{} has no definition", saved.key));
            continue;
        };
        let mut fault = |what: &str| faults.push(format!("{} {what}", saved.key));
        if !journal_is_whole(saved, checked) {
            fault("has a journal that contradicts itself, its row or its leases");
        }
        for signal in signals(saved) {
            if !taken.insert(signal) {
                fault("has a signal that was taken before");
            }
        }
        if inner.cancelled.contains(&saved.id) && saved.standing.state != State::Compensated {
            fault("was cancelled, and went on");
        }
        let told = inner.told.get(&saved.id);
        match saved.standing.state {
            State::Completed => {
                completed(inner, saved, checked).into_iter().for_each(&mut fault);
                if !matches!(told, None | Some(Outcome::Completed(_))) {
                    fault("is completed, and was told otherwise");
                }
            }
            State::Compensated => {
                compensated(inner, saved, checked).into_iter().for_each(&mut fault);
                if !matches!(told, None | Some(Outcome::Compensated)) {
                    fault("is compensated, and was told otherwise");
                }
            }
            State::Running | State::Compensating | State::NeedsOperator => fault("has not ended"),
        }
    }
    faults
}

/// Transitions without a gap, under epochs that do not fall, that come to the end that the row says.
fn journal_is_whole(saved: &SavedSaga, checked: &Arc<Checked>) -> bool {
    let versions = saved.journal.iter().map(|one| one.version);
    let epochs = saved.journal.iter().map(|one| one.epoch);
    let saga = Saga::recovered(saved, Arc::clone(checked), Default::default());
    let phase = match saved.standing.state {
        State::Completed => Phase::Completed,
        State::Compensated => Phase::Compensated,
        _ => return true,
    };
    versions.eq(1..=saved.journal.len() as u32)
        && epochs.is_sorted()
        && saga.is_ok_and(|saga| saga.phase() == phase)
}

fn entries(saved: &SavedSaga) -> Vec<Entry> {
    saved.journal.iter().flat_map(|one| one.entries().unwrap_or_default()).collect()
}

fn signals(saved: &SavedSaga) -> impl Iterator<Item = Text> {
    entries(saved).into_iter().filter_map(|entry| match entry {
        Entry::Signalled { signal, .. } => Some(signal),
        _ => None,
    })
}

fn completed(inner: &Inner, saved: &SavedSaga, checked: &Checked) -> Vec<&'static str> {
    let mut faults = Vec::new();
    for step in checked.steps().iter().filter(|step| step.wait.is_none()) {
        let known = inner.effects.get(&(saved.id, step.name.clone().into())).copied();
        let known = known.unwrap_or_default();
        if known.done != 1 {
            faults.push("is completed, and an action did not happen once");
        }
        if known.undone > 0 {
            faults.push("is completed, and something is undone");
        }
    }
    faults
}

fn compensated(inner: &Inner, saved: &SavedSaga, checked: &Checked) -> Vec<&'static str> {
    let mut faults = Vec::new();
    for step in checked.steps().iter().filter(|step| step.wait.is_none()) {
        let known = inner.effects.get(&(saved.id, step.name.clone().into())).copied();
        let known = known.unwrap_or_default();
        let may_stay = *step.name == *"look";
        if known.done > 1 || known.undone > 1 {
            faults.push("is compensated, and something happened twice");
        }
        if known.done > known.undone && !may_stay {
            faults.push("is compensated, and an effect is left");
        }
    }
    faults
}

/// Counts what happened, so that a test can show that all of it did.
pub(super) fn count(inner: &mut Inner) {
    let mut counts = inner.counts;
    for saved in inner.tables.sagas.values() {
        match saved.standing.state {
            State::Completed => counts.completed += 1,
            State::Compensated => counts.compensated += 1,
            _ => {}
        }
        for entry in entries(saved) {
            match entry {
                Entry::Cancelled { .. } => counts.cancelled += 1,
                Entry::Resumed { .. } => counts.resumed += 1,
                Entry::TakenOver => counts.taken_over += 1,
                Entry::Signalled { .. } => counts.signalled += 1,
                _ => {}
            }
        }
    }
    inner.counts = counts;
}

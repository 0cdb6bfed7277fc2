//! The sagas of the simulated database as who looks over them sees them, and as retention does.

use std::collections::BTreeMap;

use onewrite_core::{
    Timestamp,
    saga::{
        Parent, SagaId,
        journal::{ListSagas, SagaHead, SavedSaga},
    },
};

/// Those that are asked for, the newest first.
pub(super) fn heads(sagas: &BTreeMap<SagaId, SavedSaga>, list: &ListSagas) -> Vec<SagaHead> {
    let wanted = |saga: &&SavedSaga| {
        list.name.as_ref().is_none_or(|name| *name == saga.name)
            && list.key.as_ref().is_none_or(|key| *key == saga.key)
            && (list.states.is_empty() || list.states.contains(&saga.standing.state))
            && list.started_from.is_none_or(|from| saga.started_at >= from)
            && list.started_before.is_none_or(|before| saga.started_at < before)
            && list.behind.is_none_or(|behind| saga.id < behind)
    };
    sagas.values().rev().filter(wanted).take(list.limit).map(SavedSaga::head).collect()
}

/// Those that retention may delete, the oldest end first.
pub(super) fn old(sagas: &BTreeMap<SagaId, SavedSaga>, before: Timestamp) -> Vec<&SavedSaga> {
    let goes_on =
        |parent: &Parent| sagas.get(&parent.saga).is_some_and(|parent| parent.ended_at.is_none());
    let may_go = |saga: &&SavedSaga| {
        saga.ended_at.is_some_and(|at| at < before) && !saga.parent.as_ref().is_some_and(goes_on)
    };
    let mut old: Vec<&SavedSaga> = sagas.values().filter(may_go).collect();
    old.sort_by_key(|saga| saga.ended_at);
    old
}

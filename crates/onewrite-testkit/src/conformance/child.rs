//! What the journal promises of sagas that are steps of others, and of retention.

use onewrite_core::{
    Timestamp,
    saga::{
        Parent, SagaId,
        journal::{FindSagas, Journal, NewSaga, SavedSaga, Standing, State, Transition},
    },
    store::{Item, Op},
};

use super::{
    JournalFixture, apply, commit,
    saga::{advance, definition, find, new, running, start, transition, words},
    same,
};

fn parent() -> Parent {
    Parent { saga: SagaId(1), step: "ship'é".into() }
}

fn child(id: u128, standing: Standing) -> NewSaga {
    NewSaga { parent: Some(parent()), ..new(id, "1/ship", standing) }
}

/// The step that a saga is, is read back as it was written.
pub async fn its_parent(fixture: &dyn JournalFixture) {
    let place = fixture.journals().await;
    let store = place.journal().await;
    apply(&*store, vec![Op::DefineSaga(definition())]).await;
    let both = vec![start(new(1, "k", running())), start(child(2, running()))];
    same("its parent: starts", words(&commit(&*store, both).await), "aa");
    same("its parent: a step of none", find(&*store, 1).await.parent, None);
    same("its parent: a step of another", find(&*store, 2).await.parent, Some(parent()));
}

/// The end of a saga is told in the commit that ends it, or not at all.
pub async fn told_with_its_end(fixture: &dyn JournalFixture) {
    let place = fixture.journals().await;
    let store = place.journal().await;
    apply(&*store, vec![Op::DefineSaga(definition())]).await;
    commit(&*store, vec![start(new(1, "k", running())), start(child(2, running()))]).await;
    commit(&*store, vec![advance(None, 2, 1)]).await;
    let end = |version| {
        let told = parent().told(SagaId(2), State::Completed).signal(SagaId(1)).expect("a signal");
        let end = transition(2, version, Some(Standing::ended(State::Completed)));
        Item { fence: None, ops: vec![Op::Signal(Box::new(told)), end] }
    };
    let told = async || {
        let found = store.arrived(vec![3], 9).await.expect("signals can be read");
        found.into_iter().map(|one| (one.saga, one.step)).collect::<Vec<_>>()
    };
    same("told with its end: one that exists", words(&commit(&*store, vec![end(1)]).await), "c");
    same("told with its end: nobody is told", told().await, vec![]);
    same("told with its end: an end", words(&commit(&*store, vec![end(2)]).await), "a");
    same("told with its end: its parent is told", told().await, vec![(SagaId(1), None)]);
}

/// A saga that has ended at its start keeps others of its name, key and run from starting, and is waited for by
/// nobody.
pub async fn barred(fixture: &dyn JournalFixture) {
    let place = fixture.journals().await;
    let store = place.journal().await;
    apply(&*store, vec![Op::DefineSaga(definition())]).await;
    let never = vec![start(child(3, Standing::ended(State::Compensated)))];
    same("barred: a start that has ended", words(&commit(&*store, never).await), "a");
    let late = vec![start(child(4, running()))];
    same("barred: one that comes later", words(&commit(&*store, late).await), "0");
    let found = find(&*store, 3).await;
    same("barred: it has ended", found.ended_at, Some(found.started_at));
    same("barred: as this", found.standing, Standing::ended(State::Compensated));
    let forgotten = store.sagas(FindSagas::Forgotten).await.expect("sagas can be read");
    same("barred: it is not forgotten", forgotten, vec![]);
}

/// The end of a saga at `time`, as its first transition.
pub(super) fn end(saga: u128, time: i64) -> Item {
    let Op::AdvanceSaga(next) = transition(saga, 1, Some(Standing::ended(State::Completed))) else {
        unreachable!("it is a transition")
    };
    let next = Transition { time: Timestamp(time), ..(*next).clone() };
    Item { fence: None, ops: vec![Op::AdvanceSaga(next.into())] }
}

pub(super) fn trim(before: i64, limit: u32) -> Vec<Item> {
    let ops = vec![Op::TrimSagas { before: Timestamp(before), limit, only: None }];
    vec![Item { fence: None, ops }]
}

fn trim_only(before: i64, limit: u32, only: &[u128]) -> Vec<Item> {
    let only = Some(only.iter().copied().map(SagaId).collect());
    let ops = vec![Op::TrimSagas { before: Timestamp(before), limit, only }];
    vec![Item { fence: None, ops }]
}

/// Who of the sagas 1 to 5 is there, with how many transitions.
async fn there(store: &dyn Journal) -> Vec<(u128, usize)> {
    let mut there = Vec::new();
    for id in 1..=5 {
        let found = store.sagas(FindSagas::Id(SagaId(id))).await.expect("sagas can be read");
        there.extend(found.into_iter().map(|saga| (id, saga.journal.len())));
    }
    there
}

/// What ended before a time leaves with its journal, the oldest first; what goes on stays, and its key is taken.
pub async fn trimmed(fixture: &dyn JournalFixture) {
    let place = fixture.journals().await;
    let store = place.journal().await;
    let store = &*store;
    apply(store, vec![Op::DefineSaga(definition())]).await;
    let all = [(1, "a"), (2, "b"), (3, "c"), (4, "d")];
    commit(store, all.map(|(id, key)| start(new(id, key, running()))).into()).await;
    commit(store, vec![end(1, 300), end(2, 100), end(3, 200), advance(None, 4, 1)]).await;
    let everything = vec![(1, 1), (2, 1), (3, 1), (4, 1)];
    same("trimmed: nothing is old", words(&commit(store, trim(100, 9)).await), "0");
    same("trimmed: all are there", there(store).await, everything);
    same("trimmed: the oldest", words(&commit(store, trim(300, 1)).await), "a");
    same("trimmed: the others stay", there(store).await, vec![(1, 1), (3, 1), (4, 1)]);
    same("trimmed: what is old", words(&commit(store, trim(i64::MAX >> 8, 9)).await), "a");
    same("trimmed: what has not ended stays", there(store).await, vec![(4, 1)]);
    let again = vec![start(new(5, "a", running())), start(new(6, "d", running()))];
    same("trimmed: its key is free, another's is not", words(&commit(store, again).await), "a0");
    same("trimmed: without the old journal", there(store).await, vec![(4, 1), (5, 0)]);
}

/// A saga that another one started stays until that one has ended: it would start it again.
pub async fn kept_for_its_parent(fixture: &dyn JournalFixture) {
    let place = fixture.journals().await;
    let store = place.journal().await;
    let store = &*store;
    apply(store, vec![Op::DefineSaga(definition())]).await;
    let orphan = Parent { saga: SagaId(9), ..parent() };
    let orphan = NewSaga { parent: Some(orphan), ..new(3, "9/ship", running()) };
    let all = [new(1, "k", running()), child(2, running()), orphan];
    commit(store, all.map(start).into()).await;
    commit(store, vec![end(2, 100), end(3, 100)]).await;
    commit(store, trim(200, 9)).await;
    same(
        "kept for its parent: and not for one that is gone",
        there(store).await,
        vec![(1, 0), (2, 1)],
    );
    commit(store, vec![end(1, 300)]).await;
    commit(store, trim(200, 9)).await;
    same("kept for its parent: until that has ended", there(store).await, vec![(1, 1)]);
}

/// A saga that was started anew may leave before what came after it; its first start is not repeated beside that
/// one all the same.
pub async fn started_before_its_successor(fixture: &dyn JournalFixture) {
    let place = fixture.journals().await;
    let store = place.journal().await;
    let store = &*store;
    apply(store, vec![Op::DefineSaga(definition())]).await;
    let anew = NewSaga { run: 1, ..new(2, "k", running()) };
    commit(store, vec![start(new(1, "k", running())), start(anew)]).await;
    commit(store, vec![end(1, 100)]).await;
    commit(store, trim(200, 9)).await;
    same("started before its successor: it leaves", there(store).await, vec![(2, 0)]);
    let again = vec![start(new(3, "k", running()))];
    same("started before its successor: no other one", words(&commit(store, again).await), "0");
    same("started before its successor: no row is left", there(store).await, vec![(2, 0)]);
}

async fn ended(store: &dyn Journal, before: i64, limit: usize) -> Vec<SavedSaga> {
    let find = FindSagas::Ended { before: Timestamp(before), limit };
    store.sagas(find).await.expect("sagas can be read")
}

async fn ids(store: &dyn Journal, before: i64, limit: usize) -> Vec<u128> {
    ended(store, before, limit).await.iter().map(|saga| saga.id.0).collect()
}

/// What is told of as old enough to be deleted is what retention deletes, with its journal, and stays until then.
pub async fn about_to_go(fixture: &dyn JournalFixture) {
    let place = fixture.journals().await;
    let store = place.journal().await;
    let store = &*store;
    apply(store, vec![Op::DefineSaga(definition())]).await;
    let orphan = Parent { saga: SagaId(9), ..parent() };
    let orphan = NewSaga { parent: Some(orphan), ..new(3, "9/ship", running()) };
    let all = [new(1, "k", running()), child(2, running()), orphan, new(4, "d", running())];
    commit(store, all.map(start).into()).await;
    commit(store, vec![end(2, 100), end(3, 200), end(4, 150)]).await;
    same("about to go: nothing is old, or its parent goes on", ids(store, 150, 9).await, vec![]);
    same("about to go: the oldest end first", ids(store, 201, 9).await, vec![4, 3]);
    same("about to go: at most so many", ids(store, 201, 1).await, vec![4]);
    same("about to go: as it is", ended(store, 201, 1).await, vec![find(store, 4).await]);
    commit(store, vec![end(1, 300)]).await;
    same("about to go: once its parent has ended", ids(store, 201, 9).await, vec![2, 4, 3]);
    same("about to go: all are there", there(store).await, vec![(1, 1), (2, 1), (3, 1), (4, 1)]);
    commit(store, trim(201, 9)).await;
    same("about to go: the same are gone", there(store).await, vec![(1, 1)]);
    same("about to go: nothing more", ids(store, 201, 9).await, vec![]);
}

/// Retention that is told which sagas to delete deletes no others, and of these none that it would not delete.
pub async fn only_these(fixture: &dyn JournalFixture) {
    let place = fixture.journals().await;
    let store = place.journal().await;
    let store = &*store;
    apply(store, vec![Op::DefineSaga(definition())]).await;
    let ship = Parent { saga: SagaId(4), ..parent() };
    let ship = NewSaga { parent: Some(ship), ..new(5, "4/ship", running()) };
    let all = [(1, "a"), (2, "b"), (3, "c"), (4, "d")];
    let mut all: Vec<_> = all.map(|(id, key)| start(new(id, key, running()))).into();
    all.push(start(ship));
    commit(store, all).await;
    commit(store, vec![end(1, 100), end(2, 100), end(3, 300), end(5, 100)]).await;
    let everything = vec![(1, 1), (2, 1), (3, 1), (4, 0), (5, 1)];
    same("only these: none", words(&commit(store, trim_only(200, 9, &[])).await), "0");
    same("only these: all are there", there(store).await, everything);
    let these = trim_only(200, 9, &[2, 3, 4, 5, 77]);
    same("only these: what is old of these", words(&commit(store, these).await), "a");
    let left = vec![(1, 1), (3, 1), (4, 0), (5, 1)];
    same("only these: not another, and none that stays anyway", there(store).await, left);
    commit(store, trim_only(400, 1, &[3, 1])).await;
    same("only these: the oldest of them", there(store).await, vec![(3, 1), (4, 0), (5, 1)]);
}

//! What the journal promises of sagas that are steps of others.

use onewrite_core::{
    saga::{
        Parent, SagaId,
        journal::{FindSagas, NewSaga, Standing, State},
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

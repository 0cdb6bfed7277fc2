//! What the journal promises of lists of sagas.

use onewrite_core::{
    Timestamp,
    saga::{
        Attribute, Parent, SagaId,
        journal::{Journal, ListSagas, NewSaga, SagaHead, Standing, State, Waits},
    },
    store::Op,
};

use super::{
    JournalFixture, apply, commit,
    saga::{advance, definition, find, new, running, start, words},
    same,
};

/// Four sagas, started one after the other: two of one name and key, one of another name.
async fn four(store: &dyn Journal) {
    apply(store, vec![Op::DefineSaga(definition())]).await;
    let at =
        |id, key, time, standing| NewSaga { started_at: Timestamp(time), ..new(id, key, standing) };
    let held = Standing { state: State::NeedsOperator, waits: Waits::Operator, ..running() };
    let sagas = [
        at(1, "a", 100, running()),
        at(2, "b", 200, Standing::waiting(State::Running, Timestamp(i64::MAX / 4))),
        NewSaga { run: 1, ..at(1 << 127, "a", 300, Standing::ended(State::Completed)) },
        NewSaga {
            name: "refund".into(),
            parent: Some(Parent { saga: SagaId(1), step: "ship'é".into() }),
            ..at(u128::MAX - 1, "a", 400, held)
        },
    ];
    // A later run is of a later commit: its earlier one has ended.
    for saga in sagas {
        commit(store, vec![start(saga)]).await;
    }
    commit(store, vec![advance(None, 1, 1)]).await;
}

/// The same four by the order in which they were started.
fn number(head: &SagaHead) -> u128 {
    match head.id.0 {
        1 => 1,
        2 => 2,
        id if id == 1 << 127 => 3,
        _ => 4,
    }
}

async fn listed(store: &dyn Journal, which: ListSagas) -> Vec<u128> {
    let heads = store.list(&which).await.expect("sagas can be listed");
    heads.iter().map(number).collect()
}

/// What a list says of a saga is what its row says.
pub async fn its_head(fixture: &dyn JournalFixture) {
    let place = fixture.journals().await;
    let store = place.journal().await;
    four(&*store).await;
    let heads = store.list(&ListSagas::default()).await.expect("sagas can be listed");
    same("its head: all of them", heads.iter().map(number).collect::<Vec<_>>(), vec![4, 3, 2, 1]);
    for head in heads {
        same("its head: as it is found", head.clone(), find(&*store, head.id.0).await.head());
    }
    let head = find(&*store, u128::MAX - 1).await.head();
    same("its head: its state", head.state, State::NeedsOperator);
    same("its head: what it waits for", head.waits, Waits::Operator);
    same("its head: when it was started", head.started_at, Timestamp(400));
    same("its head: its parent", head.parent.map(|parent| parent.saga), Some(SagaId(1)));
    let ended = find(&*store, 1 << 127).await.head();
    same("its head: its run", ended.run, 1);
    same("its head: when it ended", ended.ended_at, Some(Timestamp(300)));
}

/// Only sagas that all of what is asked is true of are listed, the newest first.
pub async fn filtered(fixture: &dyn JournalFixture) {
    let place = fixture.journals().await;
    let store = place.journal().await;
    let store = &*store;
    four(store).await;
    let all = ListSagas::default;
    let name = |name: &'static str| Some(name.into());
    let time = |time| Some(Timestamp(time));
    let cases: [(&str, ListSagas, Vec<u128>); 7] = [
        ("a name", ListSagas { name: name("order"), ..all() }, vec![3, 2, 1]),
        ("a name that is none", ListSagas { name: name("Order"), ..all() }, vec![]),
        ("a key", ListSagas { key: name("a"), ..all() }, vec![4, 3, 1]),
        ("both", ListSagas { name: name("order"), key: name("a"), ..all() }, vec![3, 1]),
        ("from a time", ListSagas { started_from: time(200), ..all() }, vec![4, 3, 2]),
        ("before a time", ListSagas { started_before: time(300), ..all() }, vec![2, 1]),
        (
            "between two times",
            ListSagas { started_from: time(200), started_before: time(300), ..all() },
            vec![2],
        ),
    ];
    for (what, which, expected) in cases {
        same(&format!("filtered: {what}"), listed(store, which).await, expected);
    }
    let of = |states: &[State]| ListSagas { states: states.to_vec(), ..all() };
    let unfinished = [State::Running, State::Compensating, State::NeedsOperator];
    same("filtered: a state", listed(store, of(&[State::Running])).await, vec![2, 1]);
    same("filtered: unfinished ones", listed(store, of(&unfinished)).await, vec![4, 2, 1]);
    same("filtered: an end", listed(store, of(&[State::Completed])).await, vec![3]);
    let both = of(&[State::Completed, State::Running]);
    same("filtered: an end as well", listed(store, both).await, vec![3, 2, 1]);
    let named = ListSagas { name: name("order"), key: name("a"), ..of(&unfinished) };
    same("filtered: a state of a name", listed(store, named).await, vec![1]);
}

/// Page by page every saga is listed once.
pub async fn paged(fixture: &dyn JournalFixture) {
    let place = fixture.journals().await;
    let store = place.journal().await;
    let store = &*store;
    four(store).await;
    let page = |behind: Option<u128>, states: &[State]| ListSagas {
        states: states.to_vec(),
        behind: behind.map(SagaId),
        limit: 2,
        ..ListSagas::default()
    };
    same("paged: the first page", listed(store, page(None, &[])).await, vec![4, 3]);
    same("paged: the next", listed(store, page(Some(1 << 127), &[])).await, vec![2, 1]);
    same("paged: behind the last", listed(store, page(Some(1), &[])).await, vec![]);
    let open = [State::Running, State::NeedsOperator];
    same("paged: the first of some", listed(store, page(None, &open)).await, vec![4, 2]);
    same("paged: the others of these", listed(store, page(Some(2), &open)).await, vec![1]);
    let none = ListSagas { limit: 0, ..ListSagas::default() };
    same("paged: none at all", listed(store, none).await, vec![]);
}

/// Sagas are found by what they are looked for by, together with everything else, and no others.
pub async fn by_attribute(fixture: &dyn JournalFixture) {
    let place = fixture.journals().await;
    let store = place.journal().await;
    let store = &*store;
    apply(store, vec![Op::DefineSaga(definition())]).await;
    let has = |all: &[(&'static str, &str)]| {
        all.iter().map(|(name, value)| Attribute::new(*name, value)).collect::<Vec<_>>()
    };
    let with = |id, key, all: &[(&'static str, &str)]| NewSaga {
        attributes: has(all),
        ..new(id, key, running())
    };
    let long = "é".repeat(300);
    let sagas = [
        with(1, "a", &[("customer", "17"), ("shop", "ç' \\")]),
        with(2, "b", &[("customer", "17"), ("shop", &long)]),
        with(3, "c", &[("customer", "1"), ("shop", "17")]),
        new(4, "d", running()),
    ];
    commit(store, sagas.map(start).into()).await;
    // One that is there already is not found by what another start says.
    let again = with(5, "d", &[("customer", "17")]);
    same("by attribute: a repeated start", words(&commit(store, vec![start(again)]).await), "0");
    // Alone, as one that waits for a signal is, and among others.
    let waits =
        NewSaga { attributes: has(&[("customer", "18")]), ..super::saga::awaiting(6, "e", "o-1") };
    commit(store, vec![start(waits)]).await;
    let found = async |all: &[(&'static str, &str)]| {
        let which = ListSagas { attributes: has(all), ..ListSagas::default() };
        let heads = store.list(&which).await.expect("sagas can be listed");
        heads.iter().map(|head| head.id.0).collect::<Vec<_>>()
    };
    same("by attribute: one", found(&[("customer", "17")]).await, vec![2, 1]);
    same("by attribute: two", found(&[("customer", "17"), ("shop", "ç' \\")]).await, vec![1]);
    same("by attribute: a long one", found(&[("shop", &long)]).await, vec![2]);
    same("by attribute: of another name", found(&[("shop", "1")]).await, vec![]);
    same("by attribute: as it is written", found(&[("customer", "17 ")]).await, vec![]);
    same("by attribute: with a signal", found(&[("customer", "18")]).await, vec![6]);
    let key = ListSagas {
        attributes: has(&[("customer", "17")]),
        key: Some("b".into()),
        states: vec![State::Running],
        limit: 1,
        ..ListSagas::default()
    };
    same("by attribute: and a key", store.list(&key).await.expect("a list").len(), 1);
    // What is deleted takes it along.
    commit(store, vec![super::child::end(1, 100)]).await;
    commit(store, super::child::trim(i64::MAX >> 8, 9)).await;
    commit(store, vec![start(new(1, "z", running()))]).await;
    same("by attribute: another saga of its id", found(&[("customer", "17")]).await, vec![2]);
}

//! Several runners on one store: they share its sagas, start each once, and hand over what they leave.

use std::sync::Arc;

use onewrite::{
    Code, Shutdown, Store as _,
    saga::{Journal as _, Outcome, SagaOptions, SagaRunner, State, Waits, journal::FindSagas},
};

use super::world::{self, COUNT, Running, World, judge, order, order_saga, run_all};
use crate::rig::{PATIENCE, sound, until};

#[tokio::test(flavor = "multi_thread")]
async fn sagas_end_whichever_way_they_go() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path(), true).await;
    let store = Arc::new(world::store(folder.path(), sound()));
    let running = Running::start(store.clone(), &world, "a", sound());
    run_all(&running.sagas).await;
    running.stop().await;
    assert_eq!(judge(&*store, &world).await, Vec::<String>::new());
}

/// S36: starting again returns what is there, while it runs and when it has ended.
#[tokio::test(flavor = "multi_thread")]
async fn starting_twice_is_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path(), true).await;
    let store = Arc::new(world::store(folder.path(), sound()));
    let running = Running::start(store.clone(), &world, "a", sound());
    let (saga, order) = (order_saga(), order(1));
    let start = || running.sagas.start(&saga, order.key.clone(), &order);
    let (left, right) = tokio::join!(start(), start());
    let (left, right) = (left.unwrap(), right.unwrap());
    assert_eq!(left.id, right.id);
    assert!(left.is_new != right.is_new, "one of them is new");
    assert!(matches!(running.sagas.ended(left.id).await.unwrap(), Outcome::Completed(_)));
    let again = start().await.unwrap();
    assert_eq!((again.id, again.is_new), (left.id, false));
    let outcome = running.sagas.run(&saga, order.key.clone(), &order).await.unwrap();
    let Outcome::Completed(told) = outcome else { panic!("it was completed") };
    assert!(told.starts_with("order-1 "), "{told}");
    running.stop().await;
    assert_eq!(world.effects().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn runners_share_sagas_and_hand_them_over() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path(), true).await;
    let stores = [(); 3].map(|()| Arc::new(world::store(folder.path(), sound())));
    let owners = ["a", "b", "c"];
    let start = |at: usize| Running::start(stores[at].clone(), &world, owners[at], sound());
    let (first, second, third) = (start(0), start(1), start(2));
    let store = &stores[0];
    until("three owners", async || {
        let leases = store.leases().await.unwrap();
        owners.iter().all(|owner| leases.iter().any(|lease| lease.owner.as_deref() == Some(*owner)))
    })
    .await;
    let all = tokio::spawn({
        let sagas = first.sagas.clone();
        async move { run_all(&sagas).await }
    });
    // One leaves in the middle of it.
    second.stop().await;
    tokio::time::timeout(PATIENCE, all).await.expect("every saga ends").unwrap();
    first.stop().await;
    third.stop().await;
    assert_eq!(judge(&**store, &world).await, Vec::<String>::new());
}

/// What is due in a partition that changes hands does not keep it from getting there.
#[tokio::test(flavor = "multi_thread")]
async fn a_saga_that_is_started_while_its_partition_changes_hands_ends() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open_gated(folder.path(), true, true).await;
    let stores = [(); 2].map(|()| Arc::new(world::store(folder.path(), sound())));
    let first = Running::start(stores[0].clone(), &world, "a", sound());
    let (saga, mut started) = (order_saga(), Vec::new());
    let start = async |number| {
        let order = order(number);
        first.sagas.start(&saga, order.key.clone(), &order).await.unwrap().id
    };
    // They wait at the gate, and so their partitions stay where they are.
    for number in 0..COUNT {
        started.push(start(number).await);
    }
    let second = Running::start(stores[1].clone(), &world, "b", sound());
    until("b is given what is idle", async || {
        let leases = stores[0].leases().await.unwrap();
        leases.iter().any(|lease| lease.owner.as_deref() == Some("b"))
    })
    .await;
    for number in COUNT..3 * COUNT {
        started.push(start(number).await);
    }
    std::fs::write(folder.path().join(world::GATE), "").unwrap();
    for id in started {
        let ended = tokio::time::timeout(PATIENCE, first.sagas.ended(id)).await;
        ended.expect("every saga ends").unwrap();
    }
    first.stop().await;
    second.stop().await;
}

/// S10: what is cancelled before its pivot is compensated; behind it, it is too late.
#[tokio::test(flavor = "multi_thread")]
async fn a_saga_is_cancelled_or_it_is_too_late() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path(), true).await;
    let store = Arc::new(world::store(folder.path(), sound()));
    let running = Running::start(store.clone(), &world, "a", sound());
    let saga = order_saga();
    let mut cancelled = 0;
    for number in 0..COUNT {
        let order = world::Order { key: format!("cancel-{number}"), fails: None };
        let started = running.sagas.start(&saga, order.key.clone(), &order).await.unwrap();
        let asked = running.sagas.cancel(started.id, "ann", "changed her mind").await;
        let outcome = running.sagas.ended(started.id).await.unwrap();
        match asked {
            Ok(()) => assert_eq!(outcome, Outcome::Compensated, "a promise to compensate is kept"),
            Err(error) => {
                assert!(matches!(error.code(), Code::WrongState | Code::NotFound), "{error}");
                assert!(matches!(outcome, Outcome::Completed(_)));
            }
        }
        cancelled += usize::from(outcome == Outcome::Compensated);
        let found = store.sagas(FindSagas::Id(started.id)).await.unwrap();
        assert_eq!(found[0].standing.waits, Waits::Nothing);
    }
    assert!(cancelled > 0, "some are cancelled in time");
    running.stop().await;
}

/// What is asked of a saga reaches whoever runs it.
#[tokio::test(flavor = "multi_thread")]
async fn a_saga_is_cancelled_through_any_process() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open_gated(folder.path(), true, true).await;
    let store = Arc::new(world::store(folder.path(), sound()));
    let owner = Running::start(store.clone(), &world, "a", sound());
    let saga = order_saga();
    let mut ids = Vec::new();
    for number in 0..6 {
        let order = world::Order { key: format!("far-{number}"), fails: None };
        ids.push(owner.sagas.start(&saga, order.key.clone(), &order).await.unwrap().id);
    }
    // It shares none of their partitions yet, or some: either way it is heard.
    let other = Running::start(store.clone(), &world, "b", sound());
    for id in &ids {
        other.sagas.cancel(*id, "ann", "from afar").await.unwrap();
        let saved = other.sagas.show(*id).await.unwrap();
        let entries: Vec<_> = saved.journal.iter().flat_map(|one| one.entries().unwrap()).collect();
        assert!(
            entries.iter().any(onewrite::saga::Entry::turns_back),
            "it is durable: {entries:?}"
        );
    }
    std::fs::write(folder.path().join(world::GATE), "").unwrap();
    for id in &ids {
        let ended = tokio::time::timeout(PATIENCE, other.sagas.ended(*id)).await;
        assert_eq!(ended.expect("it ends").unwrap(), Outcome::Compensated);
        let late = other.sagas.cancel(*id, "ann", "again").await.unwrap_err();
        assert_eq!(late.code(), Code::WrongState, "{late}");
    }
    assert_eq!(store.arrived((0..32).collect(), 100).await.unwrap(), vec![], "no request is left");
    owner.stop().await;
    other.stop().await;
}

/// S36: starting anew cancels what runs, waits for its end, and starts another run.
#[tokio::test(flavor = "multi_thread")]
async fn a_saga_is_started_anew() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open_gated(folder.path(), true, true).await;
    let store = Arc::new(world::store(folder.path(), sound()));
    let running = Running::start(store.clone(), &world, "a", sound());
    let (saga, order) = (order_saga(), world::Order { key: "anew".into(), fails: None });
    let first = running.sagas.start(&saga, "anew", &order).await.unwrap().id;
    let again = {
        let (sagas, saga, order) = (running.sagas.clone(), saga.clone(), order.clone());
        tokio::spawn(async move {
            sagas.start_anew(&saga, "anew", &order, ("ann", "another address")).await
        })
    };
    let turned = async || running.sagas.show(first).await.unwrap().standing.state != State::Running;
    until("the first one is cancelled", turned).await;
    std::fs::write(folder.path().join(world::GATE), "").unwrap();
    let second = again.await.unwrap().unwrap();
    assert_eq!(running.sagas.ended(first).await.unwrap(), Outcome::Compensated);
    assert!(matches!(running.sagas.ended(second).await.unwrap(), Outcome::Completed(_)));
    let third =
        running.sagas.start_anew(&saga, "anew", &order, ("ann", "once more")).await.unwrap();
    assert!(matches!(running.sagas.ended(third).await.unwrap(), Outcome::Completed(_)));
    let runs = [first, second, third];
    for (run, id) in runs.into_iter().enumerate() {
        assert_eq!(running.sagas.show(id).await.unwrap().run as usize, run);
    }
    let known = running.sagas.start(&saga, "anew", &order).await.unwrap();
    assert_eq!((known.id, known.is_new), (third, false), "the last run is the one that is known");
    running.stop().await;
}

/// Others are told of every step and of the end, in the commits that journal them.
#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_a_saga_is_told_in_its_own_commits() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path(), true).await;
    let store = Arc::new(world::store(folder.path(), sound()));
    let options = SagaOptions { publish: true, ..world::options(sound()) };
    let runner = SagaRunner::new(store.clone(), options, "a").serve(&order_saga(), &world);
    let (sagas, shutdown) = (runner.sagas(), Shutdown::default());
    let running = tokio::spawn(runner.run(shutdown.clone()));
    let told = async |key: &str, fails: Option<String>| {
        let order = world::Order { key: key.to_owned(), fails };
        let id = sagas.start(&order_saga(), key.to_owned(), &order).await.unwrap().id;
        sagas.ended(id).await.unwrap();
        let sql = "SELECT type FROM onewrite_outbox WHERE aggregateid = ?1 ORDER BY sequence";
        let kinds = store.read_with(move |db| {
            let mut statement = db.prepare(sql).map_err(onewrite::other)?;
            let rows = statement.query_map([id.to_string()], |row| row.get(0));
            rows.map_err(onewrite::other)?
                .collect::<Result<Vec<String>, _>>()
                .map_err(onewrite::other)
        });
        kinds.await.unwrap()
    };
    let done = told("told-1", None).await;
    assert_eq!(done.len(), 6, "{done:?}");
    assert_eq!((&*done[0], &*done[5]), ("pay.Completed", "place_order.Completed"));
    let undone = told("told-2", Some("reserve".into())).await;
    assert!(undone.contains(&"reserve.Failed".to_owned()), "{undone:?}");
    assert!(undone.contains(&"pay.Compensated".to_owned()), "{undone:?}");
    assert_eq!(undone.last().unwrap(), "place_order.Compensated");
    shutdown.begin();
    running.await.unwrap();
}

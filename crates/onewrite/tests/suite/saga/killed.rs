//! S1, S2: a process is killed between any two of a saga's durable acts.

use std::{path::Path, sync::Arc, time::Duration};

use onewrite::{failpoint, sabotage::Sabotage};
use onewrite_testkit::child::{Child, End};

use super::world::{self, Running, World, judge, run_all};
use crate::{rig::PATIENCE, role};

/// The child: runs every order.
pub(crate) async fn child(folder: &Path, sabotage: Sabotage, knows_keys: bool, gated: bool) {
    let world = World::open_gated(folder, knows_keys, gated).await;
    let journal = world::journal(folder, sabotage).await;
    let running = Running::start(journal, &world, "child", sabotage);
    role::ready();
    run_all(&running.sagas).await;
    // Its parent kills it, here at the latest.
    std::future::pending::<()>().await;
}

/// Kills a process at each passing of `point` in `hits`, lets another carry on, and says what is wrong.
async fn struck(point: &str, hits: &[u32], knows_keys: bool) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    struck_in(folder.path(), point, hits, knows_keys).await
}

async fn struck_in(folder: &Path, point: &str, hits: &[u32], knows_keys: bool) -> Vec<String> {
    let role = if knows_keys { "saga" } else { "saga-without-keys" };
    for hits in hits {
        let command = role::command(role, folder, Sabotage::default(), None);
        let mut child = Child::start(command).await.unwrap();
        child.arm(point, *hits).await.unwrap();
        let end = tokio::time::timeout(PATIENCE, child.wait()).await;
        assert_eq!(end.expect("the point is passed").unwrap(), End::Killed, "{point}");
    }
    let world = World::open(folder, knows_keys).await;
    let journal = world::journal(folder, Sabotage::default()).await;
    let running = Running::start(journal.clone(), &world, "parent", Sabotage::default());
    tokio::time::timeout(PATIENCE, run_all(&running.sagas)).await.expect("every saga ends");
    running.stop().await;
    judge(&*journal, &world).await
}

async fn survives(point: &str, hits: &[u32]) {
    assert_eq!(struck(point, hits, true).await, Vec::<String>::new(), "{point}");
}

macro_rules! each {
    ($($name:ident: $point:literal, $hits:expr;)*) => {
        /// Where a process is killed, and at which passings.
        #[cfg(any(feature = "postgres", feature = "mysql"))]
        const EACH: &[(&str, &[u32])] = &[$(($point, &$hits)),*];

        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            survives($point, &$hits).await;
        })*

        #[test]
        fn every_failpoint_of_sagas_has_its_test() {
            let struck = [$($point),*];
            let store = ["store.before_commit", "store.after_commit_before_reply"];
            assert!(failpoint::SAGA.iter().chain(&store).all(|point| struck.contains(point)));
        }
    };
}

each! {
    killed_before_an_attempt_of_what_is_started: "saga.after_start_before_attempt", [1, 7];
    killed_after_an_attempt_that_no_journal_knows: "saga.after_attempt_before_journal", [1, 20, 9, 30];
    killed_before_an_attempt_that_is_permitted: "saga.after_journal_before_attempt", [1, 25, 11];
    killed_before_a_commit_of_transitions: "store.before_commit", [3, 5, 4];
    killed_after_a_commit_of_transitions: "store.after_commit_before_reply", [3, 5, 4];
}

/// The same where the sagas are on a server, each point in a database of its own.
#[cfg(any(feature = "postgres", feature = "mysql"))]
async fn on_a_server(place: impl AsyncFn(&str) -> String) {
    for (number, (point, hits)) in EACH.iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let url = place(&format!("killed_{number}")).await;
        std::fs::write(folder.path().join(world::PLACE), url).unwrap();
        let wrong = struck_in(folder.path(), point, &hits[..2.min(hits.len())], true).await;
        assert_eq!(wrong, Vec::<String>::new(), "{point}");
    }
    let folder = tempfile::tempdir().unwrap();
    let url = place("killed_without_keys").await;
    std::fs::write(folder.path().join(world::PLACE), url).unwrap();
    let point = "saga.after_attempt_before_journal";
    let wrong = struck_in(folder.path(), point, &[10], false).await;
    assert!(wrong.iter().any(|wrong| wrong.contains("an effect twice")), "{wrong:?}");
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_point_on_postgres() {
    let server = onewrite_testservers::Postgres::start().await.unwrap();
    on_a_server(async |name| {
        server.create_database(name).await.unwrap();
        server.url(name)
    })
    .await;
}

#[cfg(feature = "mysql")]
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_point_on_mariadb() {
    let server = onewrite_testservers::Mariadb::start().await.unwrap();
    on_a_server(async |name| {
        server.address().create_database(name).await.unwrap();
        server.address().url(name)
    })
    .await;
}

/// The control: participants that do not look at the key act twice.
#[tokio::test(flavor = "multi_thread")]
async fn without_keys_an_effect_is_there_twice() {
    let wrong = struck("saga.after_attempt_before_journal", &[10], false).await;
    assert!(wrong.iter().any(|wrong| wrong.contains("an effect twice")), "{wrong:?}");
}

/// S15: a pause outlives its process, and is over in time.
#[tokio::test(flavor = "multi_thread")]
async fn a_timer_outlives_its_process() {
    use onewrite::saga::{
        Journal as _, State, Waits,
        journal::{FindSagas, NewSaga, Standing},
    };
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(world::store(folder.path(), Sabotage::default()));
    let (saga, order) = (world::order_saga(), world::order(1));
    // As a process leaves it that ends during a pause.
    let now = onewrite::Store::now(&*store).await.unwrap();
    let due = now.plus(Duration::from_millis(200));
    let new = NewSaga {
        id: onewrite::saga::SagaId(77),
        name: saga.name(),
        key: order.key.clone().into(),
        run: 0,
        partition: 5,
        definition: saga.checked().id().clone(),
        input: onewrite::saga::Json::of(&order, "the order").unwrap(),
        standing: Standing::waiting(State::Running, due),
        awaits: Vec::new(),
        attributes: Vec::new(),
        started_at: now,
        parent: None,
    };
    let ops = vec![
        onewrite::store::Op::DefineSaga(saga.checked().clone()),
        onewrite::store::Op::StartSaga(Arc::new(new)),
    ];
    let items = vec![onewrite::store::Item { fence: None, ops }];
    let durability = onewrite::store::Durability::Durable;
    onewrite::Store::commit(&*store, onewrite::store::Batch { durability, items }).await.unwrap();
    let world = World::open(folder.path(), true).await;
    let running = Running::start(store.clone(), &world, "next", Sabotage::default());
    let ended = running.sagas.ended(onewrite::saga::SagaId(77));
    tokio::time::timeout(PATIENCE, ended).await.expect("it ends").unwrap();
    let found = store.sagas(FindSagas::Id(onewrite::saga::SagaId(77))).await.unwrap();
    assert!(found[0].journal[0].time >= due, "not before its time");
    assert_eq!(found[0].standing.waits, Waits::Nothing);
    running.stop().await;
}

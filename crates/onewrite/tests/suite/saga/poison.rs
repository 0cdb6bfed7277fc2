//! S21, S35: a saga that ends its process, and one that cannot be read, leave the others alone.

use std::{path::Path, sync::Arc};

use onewrite::{
    BoxFuture, other,
    sabotage::{Defect, Sabotage},
    saga::{
        Call, Compensation, Definition, Direction, Ended, Journal as _, Json, RetryPolicy,
        SagaRunner, State, Step, journal::FindSagas,
    },
};
use onewrite_testkit::child::{Child, End};

use super::world::{self, Running, World, options, order, order_saga};
use crate::{
    rig::{PATIENCE, broken, sound, until},
    role,
};

/// Attempts that the poisonous step is allowed.
const ATTEMPTS: u32 = 3;

fn definition() -> Arc<onewrite::saga::Checked> {
    let mut step = Step::new("drink", Compensation::None("it was poison".into()));
    let quick = RetryPolicy { initial_ms: 1, cap_ms: 1, ..RetryPolicy::attempts(ATTEMPTS) };
    step.retry = Some(quick);
    let definition =
        Definition { name: "poison".into(), steps: vec![step], output: None, timeout_ms: None };
    Arc::new(definition.check().unwrap())
}

/// The child: runs a saga whose step ends the process that attempts it.
pub(crate) async fn child(folder: &Path, sabotage: Sabotage) {
    let store = Arc::new(world::store(folder, sound()));
    let drink = |call: Call| -> BoxFuture<'static, Ended> {
        assert_eq!(call.direction, Direction::Action);
        std::process::abort()
    };
    let runner = SagaRunner::new(store.clone(), options(sabotage), "child")
        .participant("drink", Arc::new(drink));
    let sagas = runner.sagas();
    role::ready();
    tokio::spawn(runner.run(onewrite::Shutdown::default()));
    let started = sagas.start_definition(definition(), "k", Json::NULL).await.unwrap();
    sagas.ended(started.id).await.unwrap();
    // Its end is read in the store.
    std::process::exit(0);
}

/// How many processes it takes until the saga has ended; `None` when it is more than twice its budget.
async fn processes(sabotage: Sabotage) -> Option<u32> {
    let folder = tempfile::tempdir().unwrap();
    for number in 1..=2 * ATTEMPTS {
        let command = role::command("saga-poison", folder.path(), sabotage, None);
        let mut child = Child::start(command).await.unwrap();
        let end = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it ends").unwrap();
        if end == End::Exit(0) {
            let store = world::store(folder.path(), sound());
            let key = FindSagas::Key { name: "poison".into(), key: "k".into() };
            let found = store.sagas(key).await.unwrap();
            assert_eq!(found[0].standing.state, State::Compensated);
            return Some(number);
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_ends_its_process_is_given_up() {
    assert_eq!(processes(sound()).await, Some(ATTEMPTS + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn uncounted_attempts_are_noticed() {
    assert_eq!(processes(broken(Defect::NoAttempts)).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_that_cannot_be_read_leaves_the_others_alone() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path(), true).await;
    let store = Arc::new(world::store(folder.path(), sound()));
    // A store as a process leaves it that ended between the starts and the first attempts.
    let (saga, now) = (order_saga(), onewrite::Store::now(&*store).await.unwrap());
    let ids: Vec<onewrite::saga::SagaId> = (1..=10).map(onewrite::saga::SagaId).collect();
    let mut ops = vec![onewrite::store::Op::DefineSaga(saga.checked().clone())];
    for (number, id) in ids.iter().enumerate() {
        let order = order(number * 3 + 1);
        ops.push(onewrite::store::Op::StartSaga(Arc::new(onewrite::saga::journal::NewSaga {
            id: *id,
            name: saga.name(),
            key: order.key.clone().into(),
            run: 0,
            partition: 1,
            definition: saga.checked().id().clone(),
            input: Json::of(&order, "the order").unwrap(),
            standing: onewrite::saga::journal::Standing::leased(State::Running),
            awaits: Vec::new(),
            started_at: now,
            parent: None,
        })));
    }
    let items = vec![onewrite::store::Item { fence: None, ops }];
    let batch = onewrite::store::Batch { durability: onewrite::store::Durability::Durable, items };
    onewrite::Store::commit(&*store, batch).await.unwrap();
    let damage = "INSERT INTO onewrite_saga_journal SELECT id, 1, 0, 0, '[{\"done\":' FROM onewrite_saga WHERE key = 'order-1'";
    store.write(move |tx| tx.execute(damage, []).map_err(other)).await.unwrap();
    let odd = "UPDATE onewrite_saga SET state = 'odd' WHERE key = 'order-4'";
    store.write(move |tx| tx.execute(odd, []).map_err(other)).await.unwrap();
    let running = Running::start(store.clone(), &world, "a", sound());
    for id in &ids[2..] {
        let ended = tokio::time::timeout(PATIENCE, running.sagas.ended(*id)).await;
        ended.expect("the others end").unwrap();
    }
    let damaged = running.sagas.show(ids[0]).await.unwrap();
    assert_eq!(damaged.standing.state, State::Running, "it is left as it is");
    let error = running.sagas.show(ids[1]).await.unwrap_err();
    assert_eq!(error.code(), onewrite::Code::Corrupt, "{error}");
    running.stop().await;
    // Mended, they are taken up by whoever comes next.
    let mend = "DELETE FROM onewrite_saga_journal WHERE time = 0; UPDATE onewrite_saga SET state = 'running' WHERE state = 'odd'";
    store.write(move |tx| tx.execute_batch(mend).map_err(other)).await.unwrap();
    let running = Running::start(store.clone(), &world, "b", sound());
    for id in &ids[..2] {
        until("the end of the mended saga", async || {
            running.sagas.show(*id).await.unwrap().ended_at.is_some()
        })
        .await;
    }
    running.stop().await;
}

//! S21, S35: a saga that ends its process, and one that cannot be read, leave the others alone.

use std::{ops::RangeInclusive, path::Path, sync::Arc};

use onewrite::{
    BoxFuture, Code, Store as _, other,
    sabotage::{Defect, Sabotage},
    saga::{
        Call, Compensation, Definition, Direction, Ended, Journal as _, Json, RetryPolicy, SagaId,
        SagaOptions, SagaRunner, State, Step,
        journal::{FindSagas, NewSaga, Standing},
    },
    sqlite::SqliteStore,
    store::{Batch, Durability, Item, Op},
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
    let definition = Definition {
        name: "poison".into(),
        steps: vec![step],
        output: None,
        attributes: std::collections::BTreeMap::new(),
        timeout_ms: None,
        version: None,
    };
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

/// Sagas as a process leaves them that ended between the starts and the first attempts.
async fn left_behind(
    store: &SqliteStore,
    numbers: RangeInclusive<usize>,
    standing: Standing,
) -> Vec<SagaId> {
    let (saga, now) = (order_saga(), store.now().await.unwrap());
    let mut ops = vec![Op::DefineSaga(saga.checked().clone())];
    let mut ids = Vec::new();
    for number in numbers {
        let (id, order) = (SagaId(number as u128), order(number * 3 - 2));
        ops.push(Op::StartSaga(Arc::new(NewSaga {
            id,
            name: saga.name(),
            key: order.key.clone().into(),
            run: 0,
            partition: 1,
            definition: saga.checked().id().clone(),
            input: Json::of(&order, "the order").unwrap(),
            standing: standing.clone(),
            awaits: Vec::new(),
            attributes: Vec::new(),
            started_at: now,
            parent: None,
        })));
        ids.push(id);
    }
    let items = vec![Item { fence: None, ops }];
    store.commit(Batch { durability: Durability::Durable, items }).await.unwrap();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_that_cannot_be_read_leaves_the_others_alone() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path(), true).await;
    let store = Arc::new(world::store(folder.path(), sound()));
    let ids = left_behind(&store, 1..=10, Standing::leased(State::Running)).await;
    let damage = "INSERT INTO onewrite_saga_journal SELECT id, 1, 0, 0, '[{\"done\":' FROM onewrite_saga WHERE key = 'order-1'";
    store.write(move |tx| tx.execute(damage, []).map_err(other)).await.unwrap();
    let odd = "UPDATE onewrite_saga SET state = CAST(x'6fff' AS TEXT) WHERE key = 'order-4'";
    store.write(move |tx| tx.execute(odd, []).map_err(other)).await.unwrap();
    // No number, and nothing that it runs by: it goes on.
    let run = "UPDATE onewrite_saga SET run = -1 WHERE key = 'order-7'";
    store.write(move |tx| tx.execute(run, []).map_err(other)).await.unwrap();
    let running = Running::start(store.clone(), &world, "a", sound());
    for id in &ids[2..] {
        let ended = tokio::time::timeout(PATIENCE, running.sagas.ended(*id)).await;
        ended.expect("the others end").unwrap();
    }
    let damaged = running.sagas.show(ids[0]).await.unwrap();
    assert_eq!(damaged.standing.state, State::Running, "it is left as it is");
    let error = running.sagas.show(ids[1]).await.unwrap_err();
    assert_eq!(error.code(), Code::Corrupt, "{error}");
    // Mended, they are taken up by whoever runs them.
    let mend = "DELETE FROM onewrite_saga_journal WHERE time = 0; UPDATE onewrite_saga SET state = 'running' WHERE key = 'order-4'";
    store.write(move |tx| tx.execute_batch(mend).map_err(other)).await.unwrap();
    for id in &ids[..2] {
        until("the end of the mended saga", async || {
            running.sagas.show(*id).await.unwrap().ended_at.is_some()
        })
        .await;
    }
    running.stop().await;
}

/// What cannot be read stays due, and with little room in memory it is the first that every look brings.
#[tokio::test(flavor = "multi_thread")]
async fn sagas_that_are_due_and_cannot_be_read_leave_the_others_alone() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path(), true).await;
    let store = Arc::new(world::store(folder.path(), sound()));
    let due = Standing::waiting(State::Running, store.now().await.unwrap());
    let ids = left_behind(&store, 1..=9, due).await;
    let odd = "UPDATE onewrite_saga SET state = 'odd', due_at = 1 WHERE id < x'00000000000000000000000000000006'";
    store.write(move |tx| tx.execute(odd, []).map_err(other)).await.unwrap();
    let options = SagaOptions { live_max: 2, ..options(sound()) };
    let runner = SagaRunner::new(store.clone(), options, "a").serve(&order_saga(), &world);
    let (sagas, shutdown) = (runner.sagas(), onewrite::Shutdown::default());
    let task = tokio::spawn(runner.run(shutdown.clone()));
    for id in &ids[5..] {
        let ended = tokio::time::timeout(PATIENCE, sagas.ended(*id)).await;
        ended.expect("the others end").unwrap();
    }
    assert_eq!(sagas.show(ids[0]).await.unwrap_err().code(), Code::Corrupt);
    shutdown.begin();
    task.await.unwrap();
}

/// S35: more sagas than are read at once.
#[tokio::test(flavor = "multi_thread")]
async fn however_many_were_left_behind_all_of_them_are_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path(), true).await;
    let store = Arc::new(world::store(folder.path(), sound()));
    let ids = left_behind(&store, 1..=1_100, Standing::leased(State::Running)).await;
    let running = Running::start(store.clone(), &world, "a", sound());
    for id in ids {
        let ended = tokio::time::timeout(PATIENCE, running.sagas.ended(id)).await;
        ended.expect("every saga ends").unwrap();
    }
    running.stop().await;
}

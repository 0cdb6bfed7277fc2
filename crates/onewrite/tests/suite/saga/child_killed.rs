//! S2, S15: a process is killed between the start of a child, its end, and what its parent knows of them.

use std::{path::Path, sync::Arc, time::Duration};

use onewrite::{
    BoxFuture, Error, Result, failpoint, other,
    sabotage::Sabotage,
    saga::{
        Children, Cx, Journal, Outcome, Plan, Retry, SagaId, SagaType, Sagas, State, StepError,
        Waits, journal::FindSagas,
    },
    sqlite::SqliteStore,
    store::{Batch, Item, Op, Outcome as Written, Store as _},
};
use onewrite_testkit::child::{Child, End};

use super::{
    between::Between,
    delivery::{Dock, LONG, Order, OrderSaga, Yard, delivery, order, tide},
    world,
};
use crate::{
    rig::{PATIENCE, until, within},
    role,
};

/// Orders that are started.
const COUNT: usize = 12;

fn order_of(number: usize) -> Order {
    Order { sinks: number.is_multiple_of(3), ..Order::new(format!("o-{number}")) }
}

fn store(folder: &Path) -> SqliteStore {
    world::store(folder, Sabotage::default())
}

/// The control: a step that starts a saga under a key of its own attempt, and waits for its end in memory.
fn without_key(sagas: Sagas) -> OrderSaga {
    let state = |mut plan: Plan<Yard, Order>| {
        let order = plan.input();
        let ship = move |cx: Cx<Yard>, order: Order| {
            let sagas = sagas.clone();
            async move {
                let key = format!("{}/{}/{}", cx.key(), cx.epoch(), cx.attempt());
                match sagas.run(&delivery(), key, &order).await? {
                    Outcome::Completed(parcel) => Ok(parcel),
                    Outcome::Compensated => Err(StepError::abort("it is compensated")),
                }
            }
        };
        let parcel = plan.step("ship", order, ship);
        let parcel = parcel.compensate(async |_, _, _: Option<String>| Ok::<_, Retry>(()));
        plan.finish(parcel)
    };
    SagaType::plan("order", state).unwrap()
}

/// Where a process ends that has started a child, of which its parent's journal does not know.
const STARTED: &str = "test.after_child_start";

/// A store whose writer may end behind the commit that starts a child.
fn starting(store: SqliteStore) -> Between {
    let commit = |store: SqliteStore, batch: Batch| -> BoxFuture<'static, Result<_>> {
        Box::pin(async move {
            let written = store.commit(batch).await;
            failpoint::hit(STARTED);
            written
        })
    };
    Between::new(store, Box::new(commit))
}

fn dock(folder: &Path, owner: &str, keyed: bool) -> (Dock, OrderSaga) {
    let of_children = Arc::new(starting(store(folder)));
    let store: Arc<dyn Journal> = Arc::new(store(folder));
    if keyed {
        let saga = order(&Children::new(of_children), LONG);
        return (Dock::open(store, owner, std::slice::from_ref(&saga)), saga);
    }
    let (mut served, yard) = (None, Arc::new(Yard::default()));
    let dock = Dock::open_with(store, owner, yard, |yard, runner| {
        let saga = without_key(runner.sagas());
        let runner = runner.serve(&saga, yard);
        served = Some(saga);
        runner
    });
    (dock, served.unwrap())
}

/// Starts every order, again where that was done before, and waits for their ends.
async fn run_all(dock: &Dock, saga: &OrderSaga) -> Vec<(SagaId, State)> {
    let mut started = Vec::new();
    for number in 0..COUNT {
        let order = order_of(number);
        // The tide of each delivery, also of one too many.
        dock.sagas.signal(tide(&order)).await.unwrap();
        started.push(dock.start(saga, &order).await);
    }
    let mut ended = Vec::new();
    for id in started {
        dock.sagas.ended(id).await.unwrap();
        ended.push((id, dock.state(id).await));
    }
    ended
}

/// The child process: runs every order.
pub(crate) async fn child(folder: &Path, keyed: bool) {
    let (dock, saga) = dock(folder, "child", keyed);
    role::ready();
    run_all(&dock, &saga).await;
    // Its parent kills it, here at the latest.
    std::future::pending::<()>().await;
}

async fn deliveries(store: &SqliteStore) -> i64 {
    let sql = "SELECT count(*) FROM onewrite_saga WHERE name = 'delivery'";
    let count =
        store.read_with(move |db| db.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(other));
    count.await.unwrap()
}

async fn kill(role: &str, folder: &Path, point: &str, hits: u32) {
    let command = role::command(role, folder, Sabotage::default(), None);
    let mut child = Child::start(command).await.unwrap();
    child.arm(point, hits).await.unwrap();
    let end = tokio::time::timeout(PATIENCE, child.wait()).await;
    assert_eq!(end.expect("the point is passed").unwrap(), End::Killed, "{point}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_is_killed_again_and_again_has_one_child() {
    let folder = tempfile::tempdir().unwrap();
    for (point, hits) in [
        (STARTED, 1),
        (STARTED, 4),
        ("saga.after_attempt_before_journal", 9),
        ("store.after_commit_before_reply", 16),
        ("saga.after_journal_before_attempt", 30),
        ("store.before_commit", 20),
    ] {
        kill("saga-child", folder.path(), point, hits).await;
    }
    let (dock, saga) = dock(folder.path(), "parent", true);
    let ended = tokio::time::timeout(PATIENCE, run_all(&dock, &saga)).await.expect("all end");
    for (number, (parent, state)) in ended.into_iter().enumerate() {
        let sinks = order_of(number).sinks;
        assert_eq!(state, if sinks { State::Compensated } else { State::Completed });
        assert_eq!(dock.child("delivery", parent, "ship").await.standing.state, state);
    }
    assert_eq!(deliveries(&store(folder.path())).await, COUNT as i64);
    dock.close().await;
}

/// The control: started under a key that differs from attempt to attempt, there are more.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_step_s_key_a_killed_step_has_two_children() {
    let folder = tempfile::tempdir().unwrap();
    // The last of all starts is a delivery's.
    let starts = 2 * COUNT as u32;
    kill("saga-child-apart", folder.path(), "saga.after_start_before_attempt", starts).await;
    let (dock, _) = dock(folder.path(), "parent", false);
    let more = async || deliveries(&store(folder.path())).await > COUNT as i64;
    let (again, saga) = (dock.sagas.clone(), without_key(dock.sagas.clone()));
    tokio::spawn(async move {
        for number in 0..COUNT {
            let order = order_of(number);
            again.start(&saga, order.id.clone(), &order).await.unwrap();
        }
    });
    until("one delivery too many", more).await;
    dock.close().await;
}

/// Where a process ends that has written the end of a child.
const BETWEEN: &str = "test.between_end_and_message";

fn tells(op: &Op) -> bool {
    matches!(op, Op::Signal(signal) if signal.id.ends_with("/ended"))
}

/// A store whose writer may end behind the commit that ends a child. `apart`, the message to its parent would
/// follow in a commit of its own.
fn telling(store: SqliteStore, apart: bool) -> Between {
    let commit = move |store: SqliteStore, mut batch: Batch| -> BoxFuture<'static, Result<_>> {
        Box::pin(async move {
            let ends = batch.items.iter().flat_map(|item| &item.ops).any(tells);
            let mut later = Vec::new();
            for item in batch.items.iter_mut().filter(|_| apart) {
                later.extend(item.ops.extract_if(.., |op| tells(op)));
            }
            let durability = batch.durability;
            let written = store.commit(batch).await?;
            if ends {
                failpoint::hit(BETWEEN);
            }
            if !later.is_empty() {
                let items = vec![Item { fence: None, ops: later }];
                store.commit(Batch { durability, items }).await?;
            }
            Ok::<Vec<Written>, Error>(written)
        })
    };
    Between::new(store, Box::new(commit))
}

/// The child process: one order, whose delivery ends.
pub(crate) async fn telling_child(folder: &Path, apart: bool) {
    let store: Arc<dyn Journal> = Arc::new(telling(store(folder), apart));
    let saga = order(&Children::new(Arc::clone(&store)), LONG);
    let dock = Dock::open(store, "child", std::slice::from_ref(&saga));
    role::ready();
    let parent = dock.start(&saga, &order_of(1)).await;
    dock.at_sea(parent).await;
    dock.sagas.signal(tide(&order_of(1))).await.unwrap();
    // Its parent kills it, here at the latest.
    std::future::pending::<()>().await;
}

/// Kills a process behind the commit that ends a child, and lets another carry on.
async fn told(role: &str, folder: &Path) -> (Dock, SagaId) {
    kill(role, folder, BETWEEN, 1).await;
    let (dock, _) = dock(folder, "parent", true);
    let find = FindSagas::Key { name: "order".into(), key: "o-1".into() };
    let parent = dock.store.sagas(find).await.unwrap().remove(0).id;
    let child = dock.child("delivery", parent, "ship").await;
    assert_eq!(child.standing.state, State::Completed, "its end is durable");
    (dock, parent)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_child_and_its_message_are_one_commit() {
    let folder = tempfile::tempdir().unwrap();
    let (dock, parent) = told("saga-told", folder.path()).await;
    let ended = tokio::time::timeout(PATIENCE, dock.sagas.ended(parent)).await;
    assert!(matches!(ended.expect("it is told").unwrap(), Outcome::Completed(_)));
    dock.close().await;
}

/// The control: sent in a commit of its own, the message is lost with the process; the parent only finds out when
/// it looks by itself.
#[tokio::test(flavor = "multi_thread")]
async fn told_in_a_commit_of_its_own_the_parent_waits_on() {
    let folder = tempfile::tempdir().unwrap();
    let (dock, parent) = told("saga-told-apart", folder.path()).await;
    let show = async || dock.sagas.show(parent).await.unwrap();
    // Time enough for what must not happen.
    let ends = async || show().await.ended_at.is_some();
    assert!(!within(Duration::from_millis(500), ends).await, "nobody told it");
    let standing = show().await.standing;
    let left = standing.due.unwrap().since(dock.store.now().await.unwrap());
    assert_eq!(standing.waits, Waits::Timer);
    assert!(left > Duration::from_secs(1_800), "it looks in {left:?}");
    assert_eq!(dock.store.arrived((0..32).collect(), 9).await.unwrap(), vec![]);
    dock.close().await;
}

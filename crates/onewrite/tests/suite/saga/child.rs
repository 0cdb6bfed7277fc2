//! S2, S3, S4, S36: steps that are sagas of their own, which are started once, end before their parents, and tell
//! them.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use onewrite::{
    BoxFuture, Code, Result, other,
    sabotage::Sabotage,
    saga::{
        Child, Children, Cx, Entry, Journal, Out, Outcome, Parent, Plan, RetryPolicy, SagaId,
        SagaType, State, StepError, StepOptions, Waits, sqlite,
    },
    sqlite::SqliteStore,
    store::{Batch, Op, Outcome as Written, Store as _},
};
use tokio::sync::Notify;

use super::{
    between::Between,
    delivery::{Dock, LONG, Order, OrderSaga, Yard, delivery, order, tide},
    world,
};
use crate::rig::{PATIENCE, until};

fn store(folder: &Path) -> SqliteStore {
    world::store(folder, Sabotage::default())
}

/// A runner of orders over SQLite.
fn dock(store: &SqliteStore, within: Duration) -> (Dock, OrderSaga) {
    dock_at(Arc::new(store.clone()), "one", within)
}

fn dock_at(store: Arc<dyn Journal>, owner: &str, within: Duration) -> (Dock, OrderSaga) {
    let saga = order(&Children::new(Arc::clone(&store)), within);
    (Dock::open(store, owner, std::slice::from_ref(&saga)), saga)
}

pub(super) async fn ends(dock: &Dock, id: SagaId) -> Outcome {
    let ended = tokio::time::timeout(PATIENCE, dock.sagas.ended(id)).await;
    ended.expect("it ends").unwrap()
}

async fn entries(dock: &Dock, id: SagaId) -> Vec<Entry> {
    let saved = dock.sagas.show(id).await.unwrap();
    saved.journal.iter().flat_map(|one| one.entries().unwrap()).collect()
}

async fn completes(dock: &Dock, saga: &OrderSaga, id: &str) {
    let order = Order::new(id);
    let parent = dock.start(saga, &order).await;
    let child = dock.at_sea(parent).await;
    let step = "ship".into();
    assert_eq!(child.parent, Some(Parent { saga: parent, step }));
    let due = dock.sagas.show(parent).await.unwrap().standing.due.unwrap();
    let now = dock.store.now().await.unwrap();
    assert!(due.since(now) > Duration::from_secs(1_800), "it does not look: it is told");
    dock.sagas.signal(tide(&order)).await.unwrap();
    let Outcome::Completed(parcel) = ends(dock, parent).await else { panic!("it completes") };
    assert_eq!(parcel.as_str(), format!("\"parcel of {id} over 7\""));
    assert_eq!(dock.yard.notes(&order), ["pay", "load", "sail"]);
}

async fn is_compensated(dock: &Dock, saga: &OrderSaga, id: &str) {
    let order = Order { sinks: true, ..Order::new(id) };
    let parent = dock.start(saga, &order).await;
    let child = dock.at_sea(parent).await;
    dock.sagas.signal(tide(&order)).await.unwrap();
    assert_eq!(ends(dock, parent).await, Outcome::Compensated);
    assert_eq!(dock.state(child.id).await, State::Compensated);
    assert_eq!(dock.yard.notes(&order), ["pay", "load", "unload", "refund"], "nothing is recalled");
}

async fn is_cancelled(dock: &Dock, saga: &OrderSaga, id: &str) {
    let order = Order::new(id);
    let parent = dock.start(saga, &order).await;
    let child = dock.at_sea(parent).await;
    dock.sagas.cancel(parent, "ann", "changed her mind").await.unwrap();
    assert_eq!(ends(dock, parent).await, Outcome::Compensated);
    assert_eq!(dock.state(child.id).await, State::Compensated);
    assert_eq!(dock.yard.notes(&order), ["pay", "load", "unload", "refund"], "the child first");
    let by = entries(dock, child.id).await.into_iter().find_map(|entry| match entry {
        Entry::Cancelled { actor, .. } => Some(actor),
        _ => None,
    });
    assert_eq!(by.as_deref(), Some(&*format!("{parent}/ship")));
}

async fn is_recalled(dock: &Dock, saga: &OrderSaga, id: &str) {
    let order = Order { refused: true, ..Order::new(id) };
    let parent = dock.start(saga, &order).await;
    let child = dock.at_sea(parent).await;
    dock.sagas.signal(tide(&order)).await.unwrap();
    assert_eq!(ends(dock, parent).await, Outcome::Compensated);
    assert_eq!(dock.state(child.id).await, State::Completed);
    let recalled = format!("recall parcel of {id} over 7");
    assert_eq!(dock.yard.notes(&order), ["pay", "load", "sail", &*recalled, "refund"]);
}

/// Every way that an order goes, at the same time.
async fn every_way(store: Arc<dyn Journal>) {
    let (dock, saga) = dock_at(store, "one", LONG);
    tokio::join!(
        completes(&dock, &saga, "completes"),
        is_compensated(&dock, &saga, "compensated"),
        is_cancelled(&dock, &saga, "cancelled"),
        is_recalled(&dock, &saga, "recalled"),
    );
    let left = async || dock.store.arrived((0..32).collect(), 100).await.unwrap();
    until("no message is left", async || left().await.is_empty()).await;
    dock.close().await;
}

macro_rules! ways {
    ($($name:ident: $way:ident;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let folder = tempfile::tempdir().unwrap();
            let (dock, saga) = dock(&store(folder.path()), LONG);
            $way(&dock, &saga, "o-1").await;
            dock.close().await;
        })*
    };
}

ways! {
    a_step_answers_what_its_child_answers: completes;
    with_its_child_a_saga_is_compensated: is_compensated;
    a_child_is_cancelled_before_its_parent_is_compensated: is_cancelled;
    a_completed_child_is_made_good: is_recalled;
}

#[tokio::test(flavor = "multi_thread")]
async fn they_go_every_way_at_once() {
    let folder = tempfile::tempdir().unwrap();
    every_way(Arc::new(store(folder.path()))).await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread")]
async fn they_go_every_way_on_postgres() {
    use onewrite::postgres::{Options, PostgresStore};
    let server = onewrite_testservers::Postgres::start().await.unwrap();
    let options = Options::from_url(&server.url("postgres")).unwrap();
    every_way(Arc::new(PostgresStore::open(options).await.unwrap())).await;
}

#[cfg(feature = "mysql")]
#[tokio::test(flavor = "multi_thread")]
async fn they_go_every_way_on_mariadb() {
    use onewrite::mysql::{MysqlStore, Options};
    let server = onewrite_testservers::Mariadb::start().await.unwrap();
    server.address().create_database("orders").await.unwrap();
    let options = Options::from_url(&server.address().url("orders")).unwrap();
    every_way(Arc::new(MysqlStore::open(options).await.unwrap())).await;
}

/// Parents and children are of different partitions, and so of different runners.
#[tokio::test(flavor = "multi_thread")]
async fn a_parent_and_its_child_are_run_by_different_processes() {
    let folder = tempfile::tempdir().unwrap();
    let stores = [(); 2].map(|()| Arc::new(store(folder.path())));
    let (left, saga) = dock_at(stores[0].clone(), "left", LONG);
    let (right, _) = dock_at(stores[1].clone(), "right", LONG);
    until("two owners", async || {
        let leases = stores[0].leases().await.unwrap();
        let has = |owner| leases.iter().any(|lease| lease.owner.as_deref() == Some(owner));
        has("left") && has("right")
    })
    .await;
    let orders: Vec<Order> = (0..16).map(|number| Order::new(format!("o-{number}"))).collect();
    let mut started = Vec::new();
    for order in &orders {
        let parent = left.start(&saga, order).await;
        started.push((parent, left.at_sea(parent).await.partition));
    }
    let leases = stores[0].leases().await.unwrap();
    let owner = |partition: u16| {
        let of = |lease: &&onewrite::store::LeaseState| {
            &*lease.scope == "saga" && lease.partition == partition
        };
        leases.iter().find(of).and_then(|lease| lease.owner.clone())
    };
    let mut apart = 0;
    for (number, (parent, of_child)) in started.iter().enumerate() {
        let of_parent = left.sagas.show(*parent).await.unwrap().partition;
        apart += usize::from(owner(of_parent) != owner(*of_child));
        match number % 2 {
            0 => drop(right.sagas.signal(tide(&orders[number])).await.unwrap()),
            _ => right.sagas.cancel(*parent, "ann", "so").await.unwrap(),
        }
    }
    assert!(apart > 0, "of sixteen some are apart");
    for (number, (parent, _)) in started.iter().enumerate() {
        let outcome = ends(&left, *parent).await;
        assert_eq!(outcome == Outcome::Compensated, number % 2 == 1, "{number}");
    }
    left.close().await;
    right.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_does_not_end_in_time_is_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let (dock, saga) = dock(&store(folder.path()), Duration::from_millis(50));
    let order = Order::new("o-1");
    let parent = dock.start(&saga, &order).await;
    assert_eq!(ends(&dock, parent).await, Outcome::Compensated);
    let child = dock.child("delivery", parent, "ship").await;
    assert_eq!(child.standing.state, State::Compensated);
    assert_eq!(dock.yard.notes(&order).last().unwrap(), "refund");
    dock.close().await;
}

/// Who cancels a child by itself fails the step that it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_is_cancelled_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (dock, saga) = dock(&store(folder.path()), LONG);
    let order = Order::new("o-1");
    let parent = dock.start(&saga, &order).await;
    let child = dock.at_sea(parent).await;
    dock.sagas.cancel(child.id, "ann", "a storm").await.unwrap();
    assert_eq!(ends(&dock, parent).await, Outcome::Compensated);
    assert_eq!(dock.yard.notes(&order), ["pay", "load", "unload", "refund"]);
    dock.close().await;
}

/// S3, S4: the start is on its way when the step is given up. Its compensation finds nothing, and keeps the start
/// from coming later.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_comes_behind_its_compensation_starts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let (through, late) = (Arc::new(Notify::new()), Arc::new(Mutex::new(Vec::new())));
    let (waits, seen) = (Arc::clone(&through), Arc::clone(&late));
    let commit = move |store: SqliteStore, batch: Batch| -> BoxFuture<'static, Result<_>> {
        let (through, late) = (Arc::clone(&waits), Arc::clone(&seen));
        let begins =
            |op: &Op| matches!(op, Op::StartSaga(new) if new.standing.waits != Waits::Nothing);
        if !batch.items.iter().flat_map(|item| &item.ops).any(begins) {
            return Box::pin(async move { store.commit(batch).await });
        }
        tokio::spawn(async move {
            through.notified().await;
            let written = store.commit(batch).await.unwrap();
            late.lock().unwrap().extend(written);
        });
        Box::pin(std::future::pending())
    };
    let children = Children::new(Arc::new(Between::new(store.clone(), Box::new(commit))));
    let delivery = delivery();
    let state = |mut plan: Plan<Yard, Order>| {
        let order = plan.input();
        plan.options(StepOptions {
            retry: Some(RetryPolicy::attempts(1)),
            attempt_timeout: Some(Duration::from_millis(50)),
            ..StepOptions::default()
        });
        let parcel = plan.child("ship", order, &children, &delivery, LONG);
        let parcel = parcel.compensate(async |_, _, _| panic!("there is nothing to make good"));
        plan.finish(parcel)
    };
    let saga = SagaType::plan("slow", state).unwrap();
    let dock = Dock::open(Arc::new(store), "one", std::slice::from_ref(&saga));
    let order = Order::new("o-1");
    let parent = dock.start(&saga, &order).await;
    assert_eq!(ends(&dock, parent).await, Outcome::Compensated);
    through.notify_one();
    until("the late start", async || !late.lock().unwrap().is_empty()).await;
    assert!(matches!(late.lock().unwrap()[..], [Written::Applied(0)]), "it starts nothing");
    let child = dock.child("delivery", parent, "ship").await;
    assert_eq!((child.standing.state, child.journal.len()), (State::Compensated, 0));
    assert!(child.ended_at.is_some());
    assert_eq!(dock.yard.notes(&order), [""; 0]);
    dock.close().await;
}

/// A child whose last step is journaled by a transaction tells of its end as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_ends_in_a_transaction_tells_its_parent() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let made = "CREATE TABLE stamp (id TEXT)";
    store.write(move |tx| tx.execute_batch(made).map_err(other)).await.unwrap();
    let state = |mut plan: Plan<Yard, Order>| {
        let order = plan.input();
        let act = sqlite::action(&store, |tx, _: Cx<Yard>, order: Order| {
            if order.sinks {
                return Err(StepError::abort("it sank"));
            }
            tx.execute("INSERT INTO stamp VALUES (?1)", [&order.id])?;
            Ok(order.id)
        });
        let undo = sqlite::compensation(&store, |tx, _: Cx<Yard>, order: Order, _| {
            tx.execute("DELETE FROM stamp WHERE id = ?1", [order.id])?;
            Ok(())
        });
        let stamped: Out<String> = plan.step_in("stamp", order, act).compensate_in(undo);
        plan.finish(stamped)
    };
    let stamping = SagaType::plan("stamping", state).unwrap();
    let children = Children::new(Arc::new(store.clone()));
    let state = |mut plan: Plan<Yard, Order>| {
        let order = plan.input();
        let stamped = plan.child("stamp", order, &children, &stamping, LONG);
        let stamped = stamped.no_compensation("a stamp stays");
        plan.finish(stamped)
    };
    let saga = SagaType::plan("letter", state).unwrap();
    let dock = Dock::open(Arc::new(store), "one", &[saga.clone(), stamping]);
    for (number, sinks) in [false, true].into_iter().enumerate() {
        let order = Order { sinks, ..Order::new(format!("o-{number}")) };
        let parent = dock.start(&saga, &order).await;
        assert_eq!(ends(&dock, parent).await == Outcome::Compensated, sinks);
    }
    dock.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn children_have_children() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Journal> = Arc::new(store(folder.path()));
    let children = Children::new(Arc::clone(&store));
    let inner = order(&children, LONG);
    let state = |mut plan: Plan<Yard, Order>| {
        let order = plan.input();
        let parcel = plan.child("order", order, &children, &inner, LONG);
        let parcel = parcel.no_compensation("a trip is not taken back");
        plan.finish(parcel)
    };
    let saga = SagaType::plan("trip", state).unwrap();
    let dock = Dock::open(store, "one", &[saga.clone(), inner]);
    for cancelled in [false, true] {
        let order = Order::new(format!("cancelled-{cancelled}"));
        let trip = dock.start(&saga, &order).await;
        let inner = dock.child("order", trip, "order").await;
        let delivery = dock.at_sea(inner.id).await;
        if cancelled {
            dock.sagas.cancel(trip, "ann", "no holidays").await.unwrap();
            assert_eq!(ends(&dock, trip).await, Outcome::Compensated);
            assert_eq!(dock.state(inner.id).await, State::Compensated);
            assert_eq!(dock.state(delivery.id).await, State::Compensated);
            assert_eq!(dock.yard.notes(&order), ["pay", "load", "unload", "refund"]);
        } else {
            dock.sagas.signal(tide(&order)).await.unwrap();
            assert!(matches!(ends(&dock, trip).await, Outcome::Completed(_)));
        }
    }
    dock.close().await;
}

/// A saga that goes down by a saga of its own type, until that says no.
fn descent(children: &Children) -> Result<SagaType<Yard, u32, u32>> {
    let state = |mut plan: Plan<Yard, u32>| {
        let depth = plan.input();
        let rest = plan.step("look", depth, async |_: Cx<Yard>, depth: u32| {
            depth.checked_sub(1).ok_or_else(|| StepError::abort("this is the bottom"))
        });
        let rest = rest.no_compensation("it only looks");
        let below = children.clone();
        let below = Child::later(move || descent(&below));
        let down = plan.child("down", rest, children, below, LONG);
        let down = down.no_compensation("nothing is done there");
        plan.finish(down)
    };
    SagaType::plan("descent", state)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_may_be_of_its_parent_s_type() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Journal> = Arc::new(store(folder.path()));
    let saga = descent(&Children::new(Arc::clone(&store))).unwrap();
    let yard = Arc::new(Yard::default());
    let dock = Dock::open_with(store, "one", yard, |yard, runner| runner.serve(&saga, yard));
    let top = dock.sagas.start(&saga, "top", &3).await.unwrap().id;
    assert_eq!(ends(&dock, top).await, Outcome::Compensated);
    let mut at = top;
    for depth in ["2", "1", "0"] {
        let below = dock.child("descent", at, "down").await;
        assert_eq!(below.input.as_str(), depth);
        at = below.id;
    }
    dock.close().await;
}

#[test]
fn a_child_without_a_reason_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let children = Children::new(Arc::new(store(folder.path())));
    let delivery = delivery();
    let state = |mut plan: Plan<Yard, Order>| {
        let order = plan.input();
        let parcel = plan.child("ship", order, &children, &delivery, LONG).no_compensation(" ");
        plan.finish(parcel)
    };
    let refused = SagaType::plan("order", state).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidSaga, "{refused}");
}

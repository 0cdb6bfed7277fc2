//! Sagas that a signal decides, and what becomes of children around that decision.

use std::{path::Path, sync::Arc, time::Duration};

use onewrite::{
    Code,
    sabotage::Sabotage,
    saga::{Children, Cx, Journal, Out, Outcome, Plan, Retry, SagaType, Signal, State, Waits},
};

use super::{
    child::ends,
    delivery::{Dock, LONG, Order, OrderSaga, Yard, delivery, tide},
    world,
};
use crate::rig::until;

/// Pays when the word is given, and ships then.
fn given_word(children: &Children, word: Duration, within: Duration) -> OrderSaga {
    let delivery = delivery();
    let state = |plan: Plan<Yard, Order>| {
        let order = plan.input();
        let about = order.at::<String>("/id");
        let (mut plan, _): (_, Out<bool>) = plan.pivot_signal("word", "word", about, word);
        let parcel = plan.child("ship", order, children, &delivery, within);
        plan.finish(parcel)
    };
    SagaType::plan("given_word", state).unwrap()
}

fn word(order: &Order) -> Signal {
    Signal::new(format!("word-{}", order.id), "word", order.id.clone()).payload(&true).unwrap()
}

fn word_dock(folder: &Path, word: Duration, within: Duration) -> (Dock, OrderSaga) {
    let store: Arc<dyn Journal> = Arc::new(world::store(folder, Sabotage::default()));
    let saga = given_word(&Children::new(Arc::clone(&store)), word, within);
    (Dock::open(store, "one", std::slice::from_ref(&saga)), saga)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_decides() {
    let folder = tempfile::tempdir().unwrap();
    let (dock, saga) = word_dock(folder.path(), LONG, LONG);
    let (kept, dropped) = (Order::new("kept"), Order::new("dropped"));
    let (kept_id, dropped_id) = (dock.start(&saga, &kept).await, dock.start(&saga, &dropped).await);
    dock.sagas.cancel(dropped_id, "ann", "so").await.unwrap();
    assert_eq!(ends(&dock, dropped_id).await, Outcome::Compensated, "nothing was decided");
    dock.sagas.signal(word(&kept)).await.unwrap();
    dock.at_sea(kept_id).await;
    let late = dock.sagas.cancel(kept_id, "ann", "so").await.unwrap_err();
    assert_eq!(late.code(), Code::WrongState, "{late}");
    dock.sagas.signal(tide(&kept)).await.unwrap();
    assert!(matches!(ends(&dock, kept_id).await, Outcome::Completed(_)));
    dock.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_signal_that_decides_it_is_compensated() {
    let folder = tempfile::tempdir().unwrap();
    let (dock, saga) = word_dock(folder.path(), Duration::from_millis(50), LONG);
    let id = dock.start(&saga, &Order::new("o-1")).await;
    assert_eq!(ends(&dock, id).await, Outcome::Compensated);
    dock.close().await;
}

/// Behind the pivot there is no way out: a person has to look.
#[tokio::test(flavor = "multi_thread")]
async fn behind_the_pivot_a_compensated_child_is_for_a_person() {
    let folder = tempfile::tempdir().unwrap();
    let (dock, saga) = word_dock(folder.path(), LONG, LONG);
    let order = Order { sinks: true, ..Order::new("o-1") };
    dock.sagas.signal(word(&order)).await.unwrap();
    dock.sagas.signal(tide(&order)).await.unwrap();
    let id = dock.start(&saga, &order).await;
    until("it is held", async || dock.state(id).await == State::NeedsOperator).await;
    dock.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_the_pivot_a_child_that_ends_too_late_still_counts() {
    let folder = tempfile::tempdir().unwrap();
    let (dock, saga) = word_dock(folder.path(), LONG, Duration::from_millis(50));
    let order = Order::new("o-1");
    dock.sagas.signal(word(&order)).await.unwrap();
    let id = dock.start(&saga, &order).await;
    until("it is held", async || dock.state(id).await == State::NeedsOperator).await;
    dock.sagas.signal(tide(&order)).await.unwrap();
    assert!(matches!(ends(&dock, id).await, Outcome::Completed(_)));
    dock.close().await;
}

/// A child that has decided goes on: it is waited for, and made good.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_past_its_pivot_goes_on_and_is_made_good() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Journal> = Arc::new(world::store(folder.path(), Sabotage::default()));
    let children = Children::new(Arc::clone(&store));
    let sworn = SagaType::plan("sworn", |plan: Plan<Yard, Order>| {
        let order = plan.input();
        let about = order.at::<String>("/id");
        let (mut plan, _): (_, Out<bool>) = plan.pivot_signal("word", "word", about, LONG);
        let depth: Out<u32> = plan.signal("tide", "tide", about, LONG);
        plan.finish(depth)
    });
    let sworn = sworn.unwrap();
    let state = |mut plan: Plan<Yard, Order>| {
        let order = plan.input();
        let depth = plan.child("swear", order, &children, &sworn, LONG).compensate(
            async |cx: Cx<Yard>, order: Order, depth: Option<u32>| {
                cx.note(&order, format!("forsworn {depth:?}"));
                Ok::<_, Retry>(())
            },
        );
        plan.finish(depth)
    };
    let saga = SagaType::plan("oath", state).unwrap();
    let yard = Arc::new(Yard::default());
    let dock = Dock::open_with(store, "one", yard, |yard, runner| {
        runner.serve(&saga, yard).serve(&sworn, yard)
    });
    let order = Order::new("o-1");
    let oath = dock.sagas.start(&saga, "o-1", &order).await.unwrap().id;
    let child = dock.child("sworn", oath, "swear").await.id;
    dock.sagas.signal(word(&order)).await.unwrap();
    let show = async |id| dock.sagas.show(id).await.unwrap();
    until("its word is given", async || !show(child).await.journal.is_empty()).await;
    until("it waits for the tide", async || show(child).await.standing.waits == Waits::Signal)
        .await;
    dock.sagas.cancel(oath, "ann", "so").await.unwrap();
    let asked = async || {
        let standing = show(oath).await.standing;
        (standing.state, standing.waits) == (State::Compensating, Waits::Timer)
    };
    until("the child is asked to stop", asked).await;
    assert_eq!(show(child).await.standing.state, State::Running, "and does not");
    dock.sagas.signal(tide(&order)).await.unwrap();
    assert_eq!(ends(&dock, oath).await, Outcome::Compensated);
    assert_eq!(show(child).await.standing.state, State::Completed);
    assert_eq!(dock.yard.notes(&order), ["forsworn Some(7)"]);
    dock.close().await;
}

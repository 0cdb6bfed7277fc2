//! Orders that are shipped by sagas of their own.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use onewrite::{
    Shutdown, Text,
    sabotage::Sabotage,
    saga::{
        Children, Cx, Finished, Journal, Out, Plan, Retry, SagaId, SagaOptions, SagaRunner,
        SagaType, Sagas, Signal, State, StepError, StepResult, Waits,
        journal::{FindSagas, SavedSaga},
    },
};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::world;
use crate::rig::until;

pub(crate) const LONG: Duration = Duration::from_secs(86_400);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) id: String,
    /// Its ship sinks: the child says no.
    pub(crate) sinks: bool,
    /// Its invoice is refused: the parent says no, behind its child.
    pub(crate) refused: bool,
}

impl Order {
    pub(crate) fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), sinks: false, refused: false }
    }
}

/// The tide that the order's ship waits for.
pub(crate) fn tide(order: &Order) -> Signal {
    Signal::new(format!("tide-{}", order.id), "tide", order.id.clone()).payload(&7).unwrap()
}

/// What was done, in order.
#[derive(Default)]
pub(crate) struct Yard {
    notes: Mutex<Vec<(String, String)>>,
}

impl Yard {
    pub(crate) fn note(&self, order: &Order, what: impl Into<String>) {
        self.notes.lock().unwrap().push((order.id.clone(), what.into()));
    }

    pub(crate) fn notes(&self, order: &Order) -> Vec<String> {
        let notes = self.notes.lock().unwrap();
        let of = notes.iter().filter(|(id, _)| *id == order.id);
        of.map(|(_, what)| what.clone()).collect()
    }
}

macro_rules! noted {
    ($action:ident $compensation:ident) => {
        async fn $action(cx: Cx<Yard>, order: Order) -> StepResult<()> {
            cx.note(&order, stringify!($action));
            Ok(())
        }

        async fn $compensation(cx: Cx<Yard>, order: Order, _: Option<()>) -> Result<(), Retry> {
            cx.note(&order, stringify!($compensation));
            Ok(())
        }
    };
}

noted!(load unload);
noted!(pay refund);

async fn sail(cx: Cx<Yard>, (order, depth): (Order, u32)) -> StepResult<String> {
    if order.sinks {
        return Err(StepError::abort("it sank"));
    }
    cx.note(&order, "sail");
    Ok(format!("parcel of {} over {depth}", order.id))
}

fn deliver(mut plan: Plan<Yard, Order>) -> Finished<Yard, Order, String> {
    let order = plan.input();
    plan.step("load", order, load).compensate(unload);
    let depth: Out<u32> = plan.signal("tide", "tide", order.at::<String>("/id"), LONG);
    let parcel = plan.step("sail", (order, depth), sail).no_compensation("what sank is gone");
    plan.finish(parcel)
}

pub(crate) type OrderSaga = SagaType<Yard, Order, String>;

pub(crate) fn delivery() -> OrderSaga {
    SagaType::plan("delivery", deliver).unwrap()
}

async fn recall(cx: Cx<Yard>, order: Order, parcel: Option<String>) -> Result<(), Retry> {
    let barrier = cx.barrier()?;
    assert_eq!((barrier.op(), barrier.origin()), ("make_good", None), "nothing comes before it");
    cx.note(&order, format!("recall {}", parcel.unwrap_or_default()));
    Ok(())
}

async fn invoice(_: Cx<Yard>, (order, _): (Order, String)) -> StepResult<()> {
    if order.refused {
        return Err(StepError::abort("refused"));
    }
    Ok(())
}

/// An order whose step `ship` is a delivery.
pub(crate) fn order(children: &Children, within: Duration) -> OrderSaga {
    let delivery = delivery();
    let state = |mut plan: Plan<Yard, Order>| {
        let order = plan.input();
        plan.step("pay", order, pay).compensate(refund);
        let parcel = plan.child("ship", order, children, &delivery, within).compensate(recall);
        plan.step("invoice", (order, parcel), invoice).no_compensation("a paper is only printed");
        plan.finish(parcel)
    };
    SagaType::plan("order", state).unwrap()
}

/// A runner at work, which keeps nothing in memory that waits.
pub(crate) struct Dock {
    pub(crate) store: Arc<dyn Journal>,
    pub(crate) yard: Arc<Yard>,
    pub(crate) sagas: Sagas,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Dock {
    /// It serves deliveries, and these.
    pub(crate) fn open(store: Arc<dyn Journal>, owner: &str, types: &[OrderSaga]) -> Self {
        let yard = Arc::new(Yard::default());
        Self::open_with(store, owner, yard, |yard, runner| {
            types.iter().fold(runner, |runner, one| runner.serve(one, yard))
        })
    }

    pub(crate) fn open_with(
        store: Arc<dyn Journal>,
        owner: &str,
        yard: Arc<Yard>,
        serve: impl FnOnce(&Arc<Yard>, SagaRunner) -> SagaRunner,
    ) -> Self {
        let options = SagaOptions {
            keep: Duration::ZERO,
            publish: true,
            ..world::options(Sabotage::default())
        };
        let owner = Text::from(owner.to_owned());
        let runner = SagaRunner::new(Arc::clone(&store), options, owner);
        let runner = serve(&yard, runner.serve(&delivery(), &yard));
        let (sagas, shutdown) = (runner.sagas(), Shutdown::default());
        let task = tokio::spawn(runner.run(shutdown.clone()));
        Self { store, yard, sagas, shutdown, task }
    }

    pub(crate) async fn close(self) {
        self.shutdown.begin();
        self.task.await.unwrap();
    }

    pub(crate) async fn start(&self, saga: &OrderSaga, order: &Order) -> SagaId {
        self.sagas.start(saga, order.id.clone(), order).await.unwrap().id
    }

    pub(crate) async fn state(&self, id: SagaId) -> State {
        self.sagas.show(id).await.unwrap().standing.state
    }

    /// The child of a step, once it is started.
    pub(crate) async fn child(&self, name: &str, parent: SagaId, step: &str) -> SavedSaga {
        let key: Text = format!("{parent}/{step}").into();
        let find = || FindSagas::Key { name: name.to_owned().into(), key: key.clone() };
        let found = async || self.store.sagas(find()).await.unwrap().pop();
        until("the child's start", async || found().await.is_some()).await;
        found().await.unwrap()
    }

    /// Waits until an order's delivery waits for its tide, and the order for its delivery.
    pub(crate) async fn at_sea(&self, parent: SagaId) -> SavedSaga {
        let child = self.child("delivery", parent, "ship").await;
        let waits = async |id| self.sagas.show(id).await.unwrap().standing.waits;
        until("the child waits", async || waits(child.id).await == Waits::Signal).await;
        until("its parent waits", async || waits(parent).await == Waits::Timer).await;
        child
    }
}

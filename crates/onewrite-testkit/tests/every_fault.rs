//! The helpers for tests of sagas: right participants pass, and each wrong one is caught by the fault that it
//! does not bear.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use onewrite_core::saga::{SagaId, Signal};
use onewrite_engine::saga::{Cx, Finished, Outcome, Plan, Retry, SagaType, StepResult};
use onewrite_testkit::saga::{Caught, EveryFault, Fault, Ran, Report, every_fault};

/// What a shop does, by step: how often it was done, and how often made good.
#[derive(Default)]
struct Shop {
    rows: Mutex<BTreeMap<(SagaId, &'static str), Row>>,
    careless: Careless,
}

#[derive(Default, Clone, Copy)]
struct Row {
    done: i32,
    undone: i32,
    barred: bool,
}

/// What its participants forget to look at.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Careless {
    #[default]
    Nothing,
    /// Whether an action was carried out.
    Repetition,
    /// Whether a compensation was.
    Compensated,
    /// Whether a compensation was, of what was there to make good.
    Repeated,
    /// Whether an action comes behind its compensation.
    Late,
}

impl Shop {
    fn act(&self, saga: SagaId, step: &'static str) {
        let mut rows = self.rows.lock().unwrap();
        let row = rows.entry((saga, step)).or_default();
        let repeats = row.done > 0 && self.careless != Careless::Repetition;
        let late = row.barred && self.careless != Careless::Late;
        if !repeats && !late {
            row.done += 1;
        }
    }

    fn undo(&self, saga: SagaId, step: &'static str) {
        let mut rows = self.rows.lock().unwrap();
        let row = rows.entry((saga, step)).or_default();
        let looks = !matches!(self.careless, Careless::Compensated | Careless::Repeated);
        if row.barred && looks {
            return;
        }
        row.undone += row.done.max(i32::from(self.careless == Careless::Compensated));
        row.barred = true;
    }
}

async fn reserve(cx: Cx<Shop>, order: u32) -> StepResult<u32> {
    cx.act(cx.saga(), "reserve");
    Ok(order)
}

async fn release(cx: Cx<Shop>, _: u32, _: Option<u32>) -> Result<(), Retry> {
    cx.undo(cx.saga(), "reserve");
    Ok(())
}

async fn charge(cx: Cx<Shop>, (_, hold): (u32, u32)) -> StepResult<u32> {
    cx.act(cx.saga(), "charge");
    Ok(hold)
}

async fn ship(cx: Cx<Shop>, paid: u32) -> Result<u32, Retry> {
    cx.act(cx.saga(), "ship");
    Ok(paid)
}

fn place_order(mut plan: Plan<Shop, u32>) -> Finished<Shop, u32, u32> {
    let order = plan.input();
    let hold = plan.step("reserve", order, reserve).compensate(release);
    plan.sleep("cool_off", Duration::from_secs(3_600));
    let (mut plan, paid) = plan.pivot("charge", (order, hold), charge);
    let parcel = plan.step("ship", paid, ship);
    plan.finish(parcel)
}

async fn is_right(shop: &Shop, ran: &Ran<u32>) -> Result<(), String> {
    let wanted = match ran.outcome {
        Outcome::Completed(7) => 1,
        Outcome::Completed(_) => return Err("another parcel".into()),
        Outcome::Compensated => 0,
    };
    let rows = shop.rows.lock().unwrap();
    for step in ["reserve", "charge", "ship"] {
        let row = rows.get(&(ran.saga, step)).copied().unwrap_or_default();
        if row.done - row.undone != wanted {
            return Err(format!("`{step}` is there {} times", row.done - row.undone));
        }
    }
    Ok(())
}

async fn tried(careless: Careless) -> Result<Report, Caught> {
    let saga = SagaType::plan("place_order", place_order).unwrap();
    let shop = async || Arc::new(Shop { careless, ..Shop::default() });
    every_fault(&saga, shop, &7, is_right).await
}

#[tokio::test(flavor = "multi_thread")]
async fn participants_that_know_their_keys_bear_every_fault() {
    let report = tried(Careless::Nothing).await.unwrap();
    let ended = |completed| report.runs.iter().filter(move |run| run.2 == completed);
    // One run without a fault; `reserve` bears seven, `charge` five, `ship` four.
    assert_eq!(report.runs.len(), 1 + 7 + 5 + 4);
    let back: Vec<_> = ended(false).map(|(step, fault, _)| (&**step, *fault)).collect();
    let reserve = |fault| ("reserve", fault);
    let wanted = [Fault::Fails, Fault::CompensatedTwice, Fault::Late].map(reserve);
    assert_eq!(back, [wanted.to_vec(), vec![("charge", Fault::Fails)]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_does_not_look_at_its_key_is_caught() {
    let caught = tried(Careless::Repetition).await.unwrap_err();
    assert_eq!((&*caught.step, caught.fault), ("reserve", Fault::Repeated));
    let words =
        "the step `reserve`: its answer is lost, and it is made again: `reserve` is there 2 times";
    assert_eq!(caught.to_string(), words);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compensation_that_does_not_look_at_its_key_is_caught() {
    let caught = tried(Careless::Compensated).await.unwrap_err();
    // Of what never happened nothing is made good.
    assert_eq!((&*caught.step, caught.fault), ("reserve", Fault::Fails));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compensation_that_is_made_twice_is_caught() {
    let caught = tried(Careless::Repeated).await.unwrap_err();
    assert_eq!((&*caught.step, caught.fault), ("reserve", Fault::CompensatedTwice));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_behind_its_compensation_is_caught() {
    let caught = tried(Careless::Late).await.unwrap_err();
    assert_eq!((&*caught.step, caught.fault), ("reserve", Fault::Late));
}

fn wait_for_payment(mut plan: Plan<Shop, u32>) -> Finished<Shop, u32, u32> {
    let order = plan.input();
    let hold = plan.step("reserve", order, reserve).compensate(release);
    let paid = plan.signal("paid", "payment", order, Duration::from_secs(60));
    let (mut plan, charged) = plan.pivot("charge", (hold, paid), charge);
    let parcel = plan.step("ship", charged, ship);
    plan.finish(parcel)
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_are_sent_in_every_run() {
    let saga = SagaType::plan("wait_for_payment", wait_for_payment).unwrap();
    let payment = Signal::new("payment-1", "payment", "7").payload(&7).unwrap();
    let faults = EveryFault::default().signal(payment);
    let report = faults.run(&saga, async || Arc::new(Shop::default()), &7, is_right).await;
    assert_eq!(report.unwrap().runs.len(), 17);
}

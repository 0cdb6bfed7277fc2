//! What a store holds that has been used for long: sagas that have ended, and sagas that wait.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, bail};
use onewrite::{
    Timestamp,
    saga::{
        Checked, Entry, Json, SagaId, State, Waits,
        journal::{Awaited, Journal, NewSaga, PARTITIONS, Standing, Transition, encode},
    },
    store::{Batch, Durability, Item, Op, Outcome},
};
use uuid::Uuid;

/// Sagas written in one commit.
const BATCH: u64 = 250;

/// How long those wait that wait.
const WAIT: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Writes so many sagas that have ended, each with a transition for each step, and so many that wait for a
/// signal that does not come.
///
/// # Errors
/// What the store says.
pub(super) async fn fill(
    store: &dyn Journal,
    checked: &Arc<Checked>,
    (finished, waiting): (u64, u64),
) -> Result<()> {
    if finished + waiting == 0 {
        return Ok(());
    }
    write(store, vec![alone(Op::DefineSaga(Arc::clone(checked)))]).await?;
    let now = store.now().await?;
    for from in (0..finished).step_by(BATCH as usize) {
        let mut items = Vec::new();
        for number in from..(from + BATCH).min(finished) {
            items.extend(ended(checked, number, now)?);
        }
        write(store, items).await?;
        if from % 100_000 == 0 {
            eprintln!("  {from} of {finished} sagas that have ended");
        }
    }
    for from in (0..waiting).step_by(BATCH as usize) {
        let numbers = from..(from + BATCH).min(waiting);
        write(store, numbers.map(|number| waits(checked, number, now)).collect()).await?;
    }
    Ok(())
}

fn alone(op: Op) -> Item {
    Item { fence: None, ops: vec![op] }
}

async fn write(store: &dyn Journal, items: Vec<Item>) -> Result<()> {
    let outcomes = store.commit(Batch { durability: Durability::Relaxed, items }).await?;
    match outcomes.iter().find(|outcome| !matches!(outcome, Outcome::Applied(_))) {
        Some(refused) => bail!("a saga was not written: {refused:?}"),
        None => Ok(()),
    }
}

fn new(checked: &Checked, kind: &str, number: u64, now: Timestamp) -> NewSaga {
    let input =
        r#"{"customer":"customer-17","sku":"book","quantity":1,"cents":1500,"in_stock":true}"#;
    NewSaga {
        id: SagaId(Uuid::now_v7().as_u128()),
        name: checked.definition().name.clone().into(),
        key: format!("{kind}-{number}").into(),
        run: 0,
        partition: u16::try_from(number % u64::from(PARTITIONS)).unwrap_or_default(),
        definition: checked.id().clone(),
        input: Json::trusted(input),
        standing: Standing::leased(State::Running),
        awaits: Vec::new(),
        parent: None,
        started_at: now,
    }
}

fn ended(checked: &Checked, number: u64, now: Timestamp) -> Result<Vec<Item>> {
    let saga = new(checked, "ended", number, now);
    let id = saga.id;
    let mut items = vec![alone(Op::StartSaga(Arc::new(saga)))];
    let last = checked.steps().len();
    for (version, step) in (1..).zip(checked.steps()) {
        let output = Json::trusted("1500");
        let entry = Entry::Done { step: step.name.clone().into(), attempt: 1, output };
        let standing = (version as usize == last).then(|| Standing {
            waits: Waits::Nothing,
            output: Some(Json::trusted("3000")),
            ..Standing::leased(State::Completed)
        });
        let entries = encode(&[entry])?;
        let (saga, time, awaits, takes) = (id, now, None, None);
        let next = Transition { saga, version, time, entries, standing, awaits, takes };
        items.push(alone(Op::AdvanceSaga(Arc::new(next))));
    }
    Ok(items)
}

fn waits(checked: &Checked, number: u64, now: Timestamp) -> Item {
    let standing =
        Standing { waits: Waits::Signal, ..Standing::waiting(State::Running, now.plus(WAIT)) };
    let awaited = Awaited {
        step: "confirm".into(),
        name: "confirmed".into(),
        correlation: format!("order-{number}").into(),
    };
    let saga = NewSaga { standing, awaits: vec![awaited], ..new(checked, "waiting", number, now) };
    alone(Op::StartSaga(Arc::new(saga)))
}

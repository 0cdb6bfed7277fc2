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
        let sagas: Vec<NewSaga> = (from..(from + BATCH).min(finished))
            .map(|number| new(checked, "ended", number, now))
            .collect();
        let ids: Vec<SagaId> = sagas.iter().map(|saga| saga.id).collect();
        let start = |saga| alone(Op::StartSaga(Arc::new(saga)));
        write(store, sagas.into_iter().map(start).collect()).await?;
        // As a runner does: one transition of each saga in a commit.
        for step in 0..checked.steps().len() {
            let done: Result<_> = ids.iter().map(|id| done(checked, step, *id, now)).collect();
            write(store, done?).await?;
        }
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
    let outcomes = store.commit(Batch { durability: Durability::Durable, items }).await?;
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
        attributes: Vec::new(),
        parent: None,
        started_at: now,
    }
}

/// The transition with which a step is done; with the last one, the saga.
fn done(checked: &Checked, step: usize, saga: SagaId, time: Timestamp) -> Result<Item> {
    let output = Json::trusted("1500");
    let name = checked.steps()[step].name.clone().into();
    let standing = (step + 1 == checked.steps().len()).then(|| Standing {
        waits: Waits::Nothing,
        output: Some(Json::trusted("3000")),
        ..Standing::leased(State::Completed)
    });
    let entries = encode(&[Entry::Done { step: name, attempt: 1, output }])?;
    let version = u32::try_from(step)? + 1;
    let next = Transition { saga, version, time, entries, standing, awaits: None, takes: None };
    Ok(alone(Op::AdvanceSaga(Arc::new(next))))
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

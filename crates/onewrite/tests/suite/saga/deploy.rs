//! S20: a saga is carried out by the definition that it was started with, whatever is deployed meanwhile.

use std::{sync::Arc, time::Duration};

use onewrite::{
    Shutdown, Text,
    saga::{
        Cx, Finished, Out, Outcome, Plan, SagaId, SagaRunner, SagaType, Sagas, Signal, StepResult,
        Waits,
    },
    sqlite::SqliteStore,
};
use tokio::task::JoinHandle;

use super::world::{self, options};
use crate::rig::{PATIENCE, sound, until};

type Parcel = SagaType<(), u32, String>;

const LONG: Duration = Duration::from_secs(3_600);

async fn weigh(_: Cx<()>, parcel: u32) -> StepResult<u32> {
    Ok(parcel * 10)
}

async fn stamp(_: Cx<()>, weight: u32) -> StepResult<String> {
    Ok(format!("{weight} g"))
}

async fn insure(_: Cx<()>, weight: u32) -> StepResult<u32> {
    Ok(weight + 1)
}

/// What was deployed first: weigh, wait, stamp.
fn before(mut plan: Plan<(), u32>) -> Finished<(), u32, String> {
    let parcel = plan.input();
    let weight = plan.step("weigh", parcel, weigh).no_compensation("weighing changes nothing");
    let _: Out<()> = plan.signal("handed_in", "handed in", parcel, LONG);
    let label = plan.step("stamp", weight, stamp).no_compensation("a label is only printed");
    plan.finish(label)
}

/// What is deployed later, under the same name: it does not wait, and insures.
fn after(mut plan: Plan<(), u32>) -> Finished<(), u32, String> {
    let parcel = plan.input();
    let weight = plan.step("weigh", parcel, weigh).no_compensation("weighing changes nothing");
    let insured = plan.step("insure", weight, insure).no_compensation("it is a number");
    let label = plan.step("stamp", insured, stamp).no_compensation("a label is only printed");
    plan.finish(label)
}

fn deploy(store: &Arc<SqliteStore>, saga: &Parcel) -> (Sagas, Shutdown, JoinHandle<()>) {
    let runner = SagaRunner::new(store.clone(), options(sound()), Text::from_static("a"));
    let runner = runner.serve(saga, &Arc::new(()));
    let (sagas, shutdown) = (runner.sagas(), Shutdown::default());
    let task = tokio::spawn(runner.run(shutdown.clone()));
    (sagas, shutdown, task)
}

async fn outcome(sagas: &Sagas, id: SagaId) -> String {
    match tokio::time::timeout(PATIENCE, sagas.ended(id)).await.expect("it ends").unwrap() {
        Outcome::Completed(output) => output.as_str().to_owned(),
        Outcome::Compensated => "compensated".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_that_runs_keeps_its_definition_through_a_deploy() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(world::store(folder.path(), sound()));
    let (old, new) =
        (SagaType::plan("parcel", before).unwrap(), SagaType::plan("parcel", after).unwrap());
    assert_ne!(old.checked().id(), new.checked().id());
    let (sagas, shutdown, task) = deploy(&store, &old);
    let first = sagas.start(&old, "p-1", &7).await.unwrap().id;
    until("its wait", async || sagas.show(first).await.unwrap().standing.waits == Waits::Signal)
        .await;
    shutdown.begin();
    task.await.unwrap();
    let (sagas, shutdown, task) = deploy(&store, &new);
    let second = sagas.start(&new, "p-2", &7).await.unwrap().id;
    assert_eq!(outcome(&sagas, second).await, "\"71 g\"", "the new one is insured");
    sagas.signal(Signal::new("s-1", "handed in", "7")).await.unwrap();
    assert_eq!(outcome(&sagas, first).await, "\"70 g\"", "the old one knows nothing of that");
    let saved = sagas.show(first).await.unwrap();
    assert_eq!(saved.definition, *old.checked().id());
    assert!(saved.journal.iter().all(|one| !one.json.contains("insure")));
    shutdown.begin();
    task.await.unwrap();
}

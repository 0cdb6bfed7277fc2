//! S33: of a saga that was acknowledged nothing is lost in a power cut.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use onewrite::{
    Shutdown, Text,
    sabotage::{Defect, Sabotage},
    saga::{
        Cx, Finished, Journal as _, Plan, SagaId, SagaRunner, SagaType, StepResult,
        journal::FindSagas,
    },
};
use onewrite_testkit::{
    child::{Child, End},
    powercut::{self, Shim},
};

use tokio::task::JoinSet;

use super::world::{self, options};
use crate::{
    rig::{broken, sound},
    role,
};

/// Lines that are read before each power cut.
const LINES: [usize; 3] = [9, 60, 120];

fn count_saga() -> SagaType<(), u64, u64> {
    let state = |mut plan: Plan<(), u64>| -> Finished<(), u64, u64> {
        let number = plan.input();
        let next = plan.step("count", number, count).no_compensation("a number is only told");
        plan.finish(next)
    };
    SagaType::plan("count", state).unwrap()
}

async fn count(_: Cx<()>, number: u64) -> StepResult<u64> {
    Ok(number + 1)
}

/// The child: starts sagas until the power goes, and says which are started and which have ended.
pub(crate) async fn child(folder: &Path, sabotage: Sabotage) {
    let store = Arc::new(world::store(folder, sabotage));
    let runner =
        SagaRunner::new(store, options(sound()), Text::from(std::process::id().to_string()));
    let runner = runner.serve(&count_saga(), &Arc::new(()));
    let sagas = runner.sagas();
    tokio::spawn(runner.run(Shutdown::default()));
    role::ready();
    let mut callers = JoinSet::new();
    for caller in 0..4 {
        let sagas = sagas.clone();
        callers.spawn(async move {
            for turn in 0.. {
                let key = format!("{}-{caller}-{turn}", std::process::id());
                let started = sagas.start(&count_saga(), key, &turn).await.unwrap();
                println!("started {}", started.id);
                sagas.ended(started.id).await.unwrap();
                println!("ended {}", started.id);
            }
        });
    }
    callers.join_all().await;
}

/// What was said before the power went and is not so afterwards.
async fn cut_the_power(sabotage: Sabotage) -> (usize, Vec<String>) {
    let (folder, shim) = (tempfile::tempdir().unwrap(), Shim::compile().unwrap());
    let (mut said, mut lost) = (BTreeSet::new(), BTreeSet::new());
    for wanted in LINES {
        let mut command = role::command("saga-durable", folder.path(), sabotage, None);
        shim.preload(&mut command, folder.path()).unwrap();
        let mut child = Child::start(command).await.unwrap();
        let mut seen = 0;
        while let Some(line) = child.line().await.unwrap() {
            if line.starts_with("started ") || line.starts_with("ended ") {
                said.insert(line);
                seen += 1;
                if seen == wanted {
                    child.kill().unwrap();
                }
            }
        }
        assert_eq!(child.wait().await.unwrap(), End::Killed);
        powercut::cut(folder.path()).unwrap();
        let store = world::store(folder.path(), sabotage);
        for line in &said {
            let (what, id) = line.split_once(' ').unwrap();
            let found = store.sagas(FindSagas::Id(id.parse::<SagaId>().unwrap())).await.unwrap();
            let holds =
                found.first().is_some_and(|saga| what == "started" || saga.ended_at.is_some());
            lost.extend((!holds).then(|| line.clone()));
        }
        drop(store);
        powercut::settle(folder.path()).unwrap();
    }
    (said.len(), lost.into_iter().collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_sagas_survives_a_power_cut() {
    let (said, lost) = cut_the_power(sound()).await;
    assert!(said >= LINES.iter().sum());
    assert_eq!(lost, Vec::<String>::new(), "of {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_syncs_a_power_cut_loses_sagas() {
    let (said, lost) = cut_the_power(broken(Defect::NoSync)).await;
    assert!(!lost.is_empty(), "nothing noticed of {said}");
}

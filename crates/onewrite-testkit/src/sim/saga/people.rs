//! What people and machines around the simulated sagas do: start them and wait for them, send signals, cancel,
//! resume, and pull plugs.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use onewrite_core::{
    Result,
    saga::{Checked, Json, SagaId, Signal, journal::State as Stands},
};
use onewrite_engine::saga::Sagas;

use super::{
    process::State,
    shapes,
    world::{HEAL, MS, World},
};

/// Sets everything going.
pub(super) fn begin(world: &Arc<World>) {
    let (shapes, sagas) = (shapes::all(), world.locked().options.sagas);
    for number in 0..sagas {
        let checked = Arc::clone(&shapes[number % shapes.len()]);
        let key = format!("{}/{number}", checked.definition().name);
        tokio::spawn(send(Arc::clone(world), key.clone()));
        tokio::spawn(wait_for(Arc::clone(world), checked, key));
    }
    tokio::spawn(operate(Arc::clone(world)));
    if world.locked().options.faults {
        tokio::spawn(pull_plugs(Arc::clone(world)));
    }
}

/// What a saga's signals are about. Two sagas wait for the same, and each signal is for one of them.
fn about(key: &str) -> String {
    let number = key.rsplit('/').next().and_then(|number| number.parse().ok());
    format!("order-{}", number.unwrap_or(0_u32) / 2 % 2)
}

async fn pause(world: &World, below_ms: u64) {
    tokio::time::sleep(Duration::from_micros(world.below(below_ms * 1_000))).await;
}

/// Asks one process after another until one answers.
async fn asked<T, F>(world: &World, ask: impl Fn(Sagas) -> F) -> T
where
    F: Future<Output = Result<T>>,
{
    loop {
        if let Some(owner) = world.owner() {
            tokio::select! {
                biased;
                answer = ask(owner.sagas) => if let Ok(answer) = answer { return answer },
                () = owner.process.ended() => {}
            }
        }
        pause(world, 10).await;
    }
}

/// Starts a saga, some of them twice, waits for its end, and perhaps wants it cancelled meanwhile.
async fn wait_for(world: Arc<World>, checked: Arc<Checked>, key: String) {
    pause(&world, (HEAL / MS) as u64 * 7 / 10).await;
    let start = |sagas: Sagas| {
        let (checked, key) = (Arc::clone(&checked), key.clone());
        let input = Json::trusted(format!(r#"{{"about":"{}"}}"#, about(&key)));
        async move { sagas.start_definition(checked, key, input).await }
    };
    let id = asked(&world, &start).await.id;
    if world.below(3) == 0 && asked(&world, &start).await.id != id {
        world.locked().wrong(format!("{key} was started twice"));
    }
    if world.below(4) == 0 {
        tokio::spawn(cancel(Arc::clone(&world), id));
    }
    let outcome = asked(&world, |sagas| async move { sagas.ended(id).await }).await;
    world.locked().told.insert(id, outcome);
}

async fn cancel(world: Arc<World>, id: SagaId) {
    pause(&world, 250).await;
    let Some(owner) = world.owner() else { return };
    let done = tokio::select! {
        done = owner.sagas.cancel(id, "ann", "so") => done.is_ok(),
        () = owner.process.ended() => false,
    };
    if done {
        world.locked().cancelled.push(id);
    }
}

/// Sends the signals of a saga: early, late, twice, or two of them; for some only when a person has looked.
async fn send(world: Arc<World>, key: String) {
    for number in 0..world.below(3) {
        pause(&world, (HEAL / MS) as u64).await;
        let signal = Signal::new(format!("{key}/{number}"), "paid", about(&key));
        for _ in 0..=world.below(2) {
            deliver(&world, &signal).await;
        }
    }
}

async fn deliver(world: &World, signal: &Signal) {
    let send = |sagas: Sagas| {
        let signal = signal.clone();
        async move { sagas.signal(signal).await }
    };
    asked(world, send).await;
}

fn lock(asked: &Mutex<HashSet<SagaId>>) -> MutexGuard<'_, HashSet<SagaId>> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An operator lets held sagas try again: in hope while faults last, with the cause mended afterwards.
async fn operate(world: Arc<World>) {
    // Who has asked waits for the answer before it asks again.
    let asked = Arc::new(Mutex::new(HashSet::new()));
    for round in 0.. {
        tokio::time::sleep(Duration::from_millis(40)).await;
        let healed = world.now() > HEAL;
        let held = |stands: &Stands| *stands == Stands::NeedsOperator;
        let sagas: Vec<_> = {
            let inner = world.locked();
            let all = inner.tables.sagas.values().filter(|saga| held(&saga.standing.state));
            all.map(|saga| (saga.id, saga.key.clone())).collect()
        };
        for (id, key) in sagas {
            if !healed && world.below(2) == 0 {
                continue;
            }
            if healed || world.below(3) == 0 {
                world.locked().mend(id);
            }
            if healed {
                let id = format!("{key}/mended-{round}");
                let signal = Signal::new(id, "paid", about(&key));
                deliver(&world, &signal).await;
            }
            let Some(owner) = world.owner() else { continue };
            if !lock(&asked).insert(id) {
                continue;
            }
            let asked = Arc::clone(&asked);
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    _ = owner.sagas.resume(id, "ann", "mended") => {}
                    () = owner.process.ended() => {}
                }
                lock(&asked).remove(&id);
            });
        }
    }
}

/// Stalls processes, ends them, and replaces them in good order.
async fn pull_plugs(world: Arc<World>) {
    while world.now() < HEAL {
        pause(&world, 150).await;
        let Some(owner) = world.owner() else { continue };
        let name = owner.process.name.clone();
        match world.below(10) {
            0..4 => world.end(&owner.process),
            4..8 => {
                world.locked().counts.stalled += 1;
                world.note(|_| format!("{name}: stalls"));
                owner.process.become_(State::Stalled);
                let (world, process) = (Arc::clone(&world), owner.process);
                tokio::spawn(async move {
                    pause(&world, 400).await;
                    world.note(|_| format!("{name}: wakes"));
                    process.become_(State::Awake);
                });
            }
            _ => {
                world.note(|_| format!("{name}: is to stop"));
                world.replace(owner);
            }
        }
    }
}

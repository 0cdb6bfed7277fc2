//! A participant that is down: it is left alone, costs nobody an attempt, and keeps no partition.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use onewrite::{
    Shutdown, Text,
    saga::{
        Cx, Finished, Outcome, Plan, Retry, RetryPolicy, SagaId, SagaOptions, SagaRunner, SagaType,
        Sagas, StepError, StepOptions, StepResult, sqlite,
    },
};
use tokio::task::{JoinHandle, JoinSet};

use super::world::{self, LEASE};
use crate::rig::{PATIENCE, sound, until};

const SAGAS: usize = 60;

/// Failures that shut the gate.
const AFTER: u32 = 5;
/// Attempts inside at most.
const INSIDE: usize = 8;

#[derive(Default)]
struct Bank {
    works: AtomicBool,
    calls: AtomicUsize,
    last: Mutex<Option<Instant>>,
}

impl Bank {
    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn is_left_alone(&self, time: Duration) -> bool {
        self.last.lock().unwrap().is_some_and(|last| last.elapsed() >= time)
    }
}

fn charge(mut plan: Plan<Bank, u32>) -> Finished<Bank, u32, u32> {
    let retry = Some(RetryPolicy { initial_ms: 1, cap_ms: 2, ..RetryPolicy::attempts(3) });
    plan.options(StepOptions { retry, ..StepOptions::default() });
    let order = plan.input();
    let paid = plan.step("charge", order, act).compensate(refund);
    plan.finish(paid)
}

fn greet(mut plan: Plan<Bank, u32>) -> Finished<Bank, u32, u32> {
    let order = plan.input();
    let greeted = plan.step("greet", order, welcome).no_compensation("it is only said");
    plan.finish(greeted)
}

async fn welcome(_: Cx<Bank>, order: u32) -> StepResult<u32> {
    Ok(order)
}

async fn act(cx: Cx<Bank>, order: u32) -> StepResult<u32> {
    cx.calls.fetch_add(1, Ordering::SeqCst);
    *cx.last.lock().unwrap() = Some(Instant::now());
    if cx.works.load(Ordering::SeqCst) { Ok(order) } else { Err(StepError::retry("it is down")) }
}

async fn refund(_: Cx<Bank>, _: u32, _: Option<u32>) -> Result<(), Retry> {
    Ok(())
}

struct Process {
    sagas: Sagas,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Process {
    fn start(folder: &std::path::Path, bank: &Arc<Bank>, owner: &'static str, after: u32) -> Self {
        Self::start_with(folder, bank, owner, (after, 10 * SAGAS))
    }

    fn start_with(
        folder: &std::path::Path,
        bank: &Arc<Bank>,
        owner: &'static str,
        (after, live_max): (u32, usize),
    ) -> Self {
        let store = Arc::new(world::store(folder, sound()));
        let (poll, participant_max) = (Duration::from_millis(20), INSIDE);
        let options = SagaOptions { lease_ttl: LEASE * 10, poll, ..SagaOptions::default() };
        let options = SagaOptions { participant_max, breaker_after: after, ..options };
        let options = SagaOptions { live_max, ..options };
        let runner = SagaRunner::new(store, options, Text::from_static(owner))
            .serve(&SagaType::plan("charge", charge).unwrap(), bank)
            .serve(&SagaType::plan("greet", greet).unwrap(), bank);
        let (sagas, shutdown) = (runner.sagas(), Shutdown::default());
        Self { sagas, task: tokio::spawn(runner.run(shutdown.clone())), shutdown }
    }

    async fn start_all(&self) -> Vec<SagaId> {
        let (saga, mut all) = (SagaType::plan("charge", charge).unwrap(), JoinSet::new());
        for n in 0..SAGAS {
            let (sagas, saga) = (self.sagas.clone(), saga.clone());
            all.spawn(async move { sagas.start(&saga, format!("order-{n}"), &7).await });
        }
        all.join_all().await.into_iter().map(|started| started.unwrap().id).collect()
    }

    /// How many of them are completed, once all have ended.
    async fn completed(&self, started: &[SagaId]) -> usize {
        let mut all = JoinSet::new();
        for id in started.iter().copied() {
            let sagas = self.sagas.clone();
            all.spawn(async move { sagas.ended(id).await.unwrap() });
        }
        let ended = tokio::time::timeout(PATIENCE, all.join_all()).await.expect("every saga ends");
        ended.iter().filter(|outcome| matches!(outcome, Outcome::Completed(_))).count()
    }

    async fn stop(self) {
        self.shutdown.begin();
        self.task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_participant_that_is_down_costs_nobody_an_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let bank = Arc::new(Bank::default());
    let process = Process::start(folder.path(), &bank, "a", AFTER);
    let all = process.start_all().await;
    // Half of the shortest time for which its gate is shut.
    until("nobody tries any more", async || bank.is_left_alone(Duration::from_millis(250))).await;
    // Those that were inside may have failed as well, and one that tried alone.
    let most = AFTER as usize + INSIDE;
    assert!(bank.calls() <= most, "{} calls while it was down", bank.calls());
    bank.works.store(true, Ordering::SeqCst);
    assert_eq!(process.completed(&all).await, SAGAS);
    assert!(bank.calls() <= most + SAGAS, "{} calls in all", bank.calls());
    process.stop().await;
}

/// Whoever turns back does not wait for a turn that would be of no use.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_it_can_be_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let bank = Arc::new(Bank::default());
    let process = Process::start(folder.path(), &bank, "a", AFTER);
    let all = process.start_all().await;
    until("nobody tries any more", async || bank.is_left_alone(Duration::from_millis(250))).await;
    let (patient, cancelled) = all.split_at(SAGAS * 3 / 4);
    for id in cancelled {
        process.sagas.cancel(*id, "ann", "it takes too long").await.unwrap();
    }
    assert_eq!(process.completed(cancelled).await, 0, "all are compensated");
    bank.works.store(true, Ordering::SeqCst);
    assert_eq!(process.completed(patient).await, patient.len());
    process.stop().await;
}

/// Sagas that need another participant have room, however many wait for this one.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_it_leaves_room_for_others() {
    let folder = tempfile::tempdir().unwrap();
    let bank = Arc::new(Bank::default());
    let process = Process::start_with(folder.path(), &bank, "a", (AFTER, SAGAS / 2));
    process.start_all().await;
    until("nobody tries any more", async || bank.is_left_alone(Duration::from_millis(250))).await;
    let calls = bank.calls();
    let saga = SagaType::plan("greet", greet).unwrap();
    let greeted = process.sagas.run(&saga, "ann", &7);
    let greeted = tokio::time::timeout(PATIENCE, greeted).await.expect("there is room").unwrap();
    assert_eq!(greeted, Outcome::Completed(7));
    assert!(bank.calls() <= calls + INSIDE, "the bank is left alone meanwhile");
    process.stop().await;
}

/// What is committed between failures is an answer, in the saga's own store as well.
#[tokio::test(flavor = "multi_thread")]
async fn failures_with_commits_between_them_are_not_in_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(world::store(folder.path(), sound()));
    let state = |mut plan: Plan<Bank, u32>| {
        let order = plan.input();
        let retry = Some(RetryPolicy { initial_ms: 1, cap_ms: 2, ..RetryPolicy::default() });
        plan.options(StepOptions { retry, ..StepOptions::default() });
        let act = sqlite::action(&store, |_, cx: Cx<Bank>, order: u32| {
            let is_first = cx.calls.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
            if is_first { Err(StepError::retry("once")) } else { Ok(order) }
        });
        let booked = plan.step_in("book", order, act).no_compensation("it is only looked at");
        plan.finish(booked)
    };
    let (saga, bank) = (SagaType::plan("book", state).unwrap(), Arc::new(Bank::default()));
    let options = SagaOptions { breaker_after: AFTER, ..world::options(sound()) };
    let runner = SagaRunner::new(store.clone(), options, "a").serve(&saga, &bank);
    let (sagas, shutdown) = (runner.sagas(), Shutdown::default());
    let task = tokio::spawn(runner.run(shutdown.clone()));
    let all = async {
        // Were the gate shut, each further failure would double the pause.
        for n in 0..3 * AFTER {
            sagas.run(&saga, format!("order-{n}"), &n).await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("none is left alone");
    shutdown.begin();
    task.await.unwrap();
}

/// The control: without a breaker every saga uses up its attempts.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_breaker_sagas_are_given_up_while_it_is_down() {
    let folder = tempfile::tempdir().unwrap();
    let bank = Arc::new(Bank::default());
    let process = Process::start(folder.path(), &bank, "a", 0);
    let all = process.start_all().await;
    assert_eq!(process.completed(&all).await, 0);
    assert_eq!(bank.calls(), 3 * SAGAS);
    process.stop().await;
}

/// It may be down for this process alone: what waits for it here goes where the partition goes.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_it_does_not_keep_its_partition() {
    let folder = tempfile::tempdir().unwrap();
    let (down, up) = (Arc::new(Bank::default()), Arc::new(Bank::default()));
    up.works.store(true, Ordering::SeqCst);
    let first = Process::start(folder.path(), &down, "a", AFTER);
    let all = first.start_all().await;
    until("it failed often enough", async || down.calls() >= AFTER as usize).await;
    let second = Process::start(folder.path(), &up, "b", AFTER);
    // Its fair share, in which there are sagas.
    until("the second completes what it was given", async || up.calls() >= SAGAS / 5).await;
    first.stop().await;
    assert_eq!(second.completed(&all).await, SAGAS);
    second.stop().await;
}

//! S14: signals beside transitions that are slow, or refused because another saga has the signal.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use onewrite::{
    BoxFuture, Result, Shutdown, Store as _, Text,
    sabotage::Sabotage,
    saga::{
        Cx, Outcome, Plan, Retry, RetryPolicy, SagaId, SagaOptions, SagaRunner, SagaType, Signal,
        StepOptions, StepResult,
    },
    sqlite::SqliteStore,
    store::{self, Batch, Durability, Item, Op},
};
use tokio::sync::Notify;

use super::{between::Between, world};
use crate::rig::{PATIENCE, until};

#[derive(Default)]
struct Desk {
    began: AtomicUsize,
    may_end: Notify,
}

async fn work(cx: Cx<Desk>, _: String) -> StepResult<()> {
    cx.began.fetch_add(1, Ordering::SeqCst);
    cx.may_end.notified().await;
    Ok(())
}

async fn undo(_: Cx<Desk>, _: String, _: Option<()>) -> Result<(), Retry> {
    Ok(())
}

/// The signal that a batch takes.
fn taken(batch: &Batch) -> Option<Text> {
    batch.items.iter().flat_map(|item| &item.ops).find_map(|op| match op {
        Op::AdvanceSaga(next) => next.takes.clone(),
        _ => None,
    })
}

/// Somebody else takes it just before.
async fn take_first(store: &SqliteStore, signal: Text) {
    let ops = vec![Op::DropSignal { saga: SagaId(7), signal }];
    let items = vec![Item { fence: None, ops }];
    store.commit(Batch { durability: Durability::Durable, items }).await.unwrap();
}

/// A step beside the one that waits is under way, and may be tried once.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_another_saga_has_taken_leaves_the_other_steps_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = world::store(folder.path(), Sabotage::default());
    let stolen = Arc::new(AtomicBool::new(false));
    let commit = {
        let stolen = Arc::clone(&stolen);
        move |store: SqliteStore, batch: Batch| -> BoxFuture<'static, Result<Vec<store::Outcome>>> {
            let signal = taken(&batch).filter(|_| !stolen.swap(true, Ordering::SeqCst));
            Box::pin(async move {
                if let Some(signal) = signal {
                    take_first(&store, signal).await;
                }
                store.commit(batch).await
            })
        }
    };
    let between = Arc::new(Between::new(store.clone(), Box::new(commit)));
    let state = |mut plan: Plan<Desk, String>| {
        let retry = Some(RetryPolicy::attempts(1));
        plan.options(StepOptions { retry, ..StepOptions::default() });
        let input = plan.input();
        let hour = Duration::from_secs(3_600);
        let paid = plan.parallel(|plan| {
            plan.step("work", input, work).compensate(undo);
            plan.signal::<u32, _>("paid", "payment", input, hour)
        });
        plan.finish(paid)
    };
    let (saga, desk) = (SagaType::plan("taken", state).unwrap(), Arc::new(Desk::default()));
    let runner = SagaRunner::new(between, world::options(Sabotage::default()), "one");
    let runner = runner.serve(&saga, &desk);
    let (sagas, shutdown) = (runner.sagas(), Shutdown::default());
    let running = tokio::spawn(runner.run(shutdown.clone()));
    let id = sagas.start(&saga, "k", &"b-1".to_owned()).await.unwrap().id;
    until("the other step", async || desk.began.load(Ordering::SeqCst) == 1).await;
    let payment = |number: u32| {
        Signal::new(format!("p-{number}"), "payment", "b-1").payload(&number).unwrap()
    };
    sagas.signal(payment(1)).await.unwrap();
    until("the theft", async || stolen.load(Ordering::SeqCst)).await;
    sagas.signal(payment(2)).await.unwrap();
    until("the second one is taken", async || sagas.show(id).await.unwrap().journal.len() == 1)
        .await;
    desk.may_end.notify_one();
    let ended = tokio::time::timeout(PATIENCE, sagas.ended(id)).await.expect("it ends").unwrap();
    assert_eq!(ended, Outcome::Completed(onewrite::saga::Json::trusted("2")));
    assert_eq!(desk.began.load(Ordering::SeqCst), 1, "its other step was not made again");
    shutdown.begin();
    running.await.unwrap();
}

type BeginsToWait = tokio::sync::watch::Sender<bool>;

/// Holds up the transition of this number until it is let through.
fn slow(version: u32, gate: Arc<BeginsToWait>, held: Arc<AtomicUsize>) -> super::between::Commit {
    Box::new(move |store, batch| {
        let is_it = |op: &Op| matches!(op, Op::AdvanceSaga(next) if next.version == version);
        let is_held = batch.items.iter().flat_map(|item| &item.ops).any(is_it);
        let (mut gate, held) = (gate.subscribe(), Arc::clone(&held));
        Box::pin(async move {
            if is_held {
                held.fetch_add(1, Ordering::SeqCst);
                gate.wait_for(|open| *open).await.unwrap();
            }
            store.commit(batch).await
        })
    })
}

/// A pause ends while a transition is on its way; then a signal comes, in time; then the time for it is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_in_time_counts_though_a_transition_takes_long() {
    let folder = tempfile::tempdir().unwrap();
    let store = world::store(folder.path(), Sabotage::default());
    let (gate, held) = (Arc::new(BeginsToWait::new(false)), Arc::new(AtomicUsize::new(0)));
    let between = Between::new(store.clone(), slow(2, Arc::clone(&gate), Arc::clone(&held)));
    let within = Duration::from_secs(5);
    let state = |mut plan: Plan<Desk, String>| {
        let input = plan.input();
        let paid = plan.parallel(|plan| {
            plan.step("work", input, work).compensate(undo);
            // Its end is the first transition, the end of the work is the second, and is held up.
            plan.sleep("short", Duration::from_millis(1));
            plan.sleep("long", Duration::from_secs(1));
            plan.signal::<u32, _>("paid", "payment", input, within)
        });
        plan.finish(paid)
    };
    let (saga, desk) = (SagaType::plan("slow", state).unwrap(), Arc::new(Desk::default()));
    let runner = SagaRunner::new(Arc::new(between), world::options(Sabotage::default()), "one");
    let runner = runner.serve(&saga, &desk);
    let (sagas, shutdown) = (runner.sagas(), Shutdown::default());
    let running = tokio::spawn(runner.run(shutdown.clone()));
    let started = Instant::now();
    let id = sagas.start(&saga, "k", &"b-1".to_owned()).await.unwrap().id;
    until("the first transition", async || sagas.show(id).await.unwrap().journal.len() == 1).await;
    desk.may_end.notify_one();
    until("the second one is on its way", async || held.load(Ordering::SeqCst) > 0).await;
    until("the pause is over", async || started.elapsed() > Duration::from_millis(1_500)).await;
    sagas.signal(Signal::new("p-1", "payment", "b-1").payload(&1).unwrap()).await.unwrap();
    assert!(started.elapsed() < within, "this machine is too slow");
    until("its time is over", async || started.elapsed() > within * 4 / 3).await;
    gate.send_replace(true);
    let ended = tokio::time::timeout(PATIENCE, sagas.ended(id)).await.expect("it ends").unwrap();
    assert_eq!(ended, Outcome::Completed(onewrite::saga::Json::trusted("1")));
    shutdown.begin();
    running.await.unwrap();
}

/// A saga begins to wait for a signal that is there, and what says so takes longer to be written than it is to wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_counts_though_the_wait_for_it_is_written_late() {
    let folder = tempfile::tempdir().unwrap();
    let store = world::store(folder.path(), Sabotage::default());
    let (gate, held) = (Arc::new(BeginsToWait::new(false)), Arc::new(AtomicUsize::new(0)));
    let between = Between::new(store.clone(), slow(1, Arc::clone(&gate), Arc::clone(&held)));
    let state = |mut plan: Plan<Desk, String>| {
        let input = plan.input();
        let paid = plan.parallel(|plan| {
            plan.step("work", input, work).compensate(undo);
            let about = plan.step("about", input, about).no_compensation("it only looks");
            plan.signal::<u32, _>("paid", "payment", about, Duration::from_millis(100))
        });
        plan.finish(paid)
    };
    let (saga, desk) = (SagaType::plan("late", state).unwrap(), Arc::new(Desk::default()));
    // What is matched now and then is so every half second.
    let poll = Duration::from_millis(10);
    let options = SagaOptions { poll, ..world::options(Sabotage::default()) };
    let runner = SagaRunner::new(Arc::new(between), options, "one");
    let runner = runner.serve(&saga, &desk);
    let (sagas, shutdown) = (runner.sagas(), Shutdown::default());
    let running = tokio::spawn(runner.run(shutdown.clone()));
    sagas.signal(Signal::new("p-1", "payment", "b-1").payload(&1).unwrap()).await.unwrap();
    let id = sagas.start(&saga, "k", &"b-1".to_owned()).await.unwrap().id;
    until("the wait is on its way", async || held.load(Ordering::SeqCst) > 0).await;
    // Meanwhile signals are matched and looked for, as often as that is done anyway.
    let begun = Instant::now();
    until("some looks", async || begun.elapsed() > Duration::from_secs(3)).await;
    gate.send_replace(true);
    until("it has the signal", async || sagas.show(id).await.unwrap().journal.len() == 2).await;
    desk.may_end.notify_one();
    let ended = tokio::time::timeout(PATIENCE, sagas.ended(id)).await.expect("it ends").unwrap();
    assert_eq!(ended, Outcome::Completed(onewrite::saga::Json::trusted("1")));
    shutdown.begin();
    running.await.unwrap();
}

async fn about(_: Cx<Desk>, booking: String) -> StepResult<String> {
    Ok(booking)
}

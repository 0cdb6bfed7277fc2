//! Branches of one saga whose functions journal themselves take turns; partitions change hands while attempts
//! last.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use onewrite::{
    Shutdown, Store as _,
    sabotage::Sabotage,
    saga::{Cx, Journal, Plan, SagaOptions, SagaRunner, SagaType, StepResult, sqlite},
    store::{Item, Op},
};
use tokio::sync::watch;

use super::{bank, between::Between, world};
use crate::rig::{PATIENCE, until};

/// Branches of one saga wait for one another; a runner that joins gets its share all the same.
#[tokio::test(flavor = "multi_thread")]
async fn branches_take_turns_and_partitions_change_hands_meanwhile() {
    const SAGAS: i64 = 200;
    let folder = tempfile::tempdir().unwrap();
    let store = bank::open(folder.path()).await;
    let state = |mut plan: Plan<(), i64>| {
        let input = plan.input();
        plan.parallel(|plan| {
            for branch in ["a", "b", "c", "d"] {
                let act = sqlite::action(&store, |tx, _: Cx<()>, _: i64| {
                    tx.execute(bank::WRITE_LETTER, [])?;
                    Ok(())
                });
                plan.step_in(branch, input, act).no_compensation("it always succeeds");
            }
        });
        plan.finish(input)
    };
    let saga = SagaType::plan("branches", state).unwrap();
    let shutdown = Shutdown::default();
    let runner = |owner: &'static str| {
        let options = world::options(Sabotage::default());
        SagaRunner::new(bank::journal(&store), options, owner).serve(&saga, &Arc::new(()))
    };
    let first = runner("one");
    let sagas = first.sagas();
    let mut running = vec![tokio::spawn(first.run(shutdown.clone()))];
    let mut all = tokio::task::JoinSet::new();
    for number in 0..SAGAS {
        let (sagas, saga) = (sagas.clone(), saga.clone());
        all.spawn(async move { sagas.run(&saga, format!("s-{number}"), &number).await.unwrap() });
    }
    // The others join while it is at work, and want their shares.
    for owner in ["two", "three"] {
        running.push(tokio::spawn(runner(owner).run(shutdown.clone())));
    }
    tokio::time::timeout(PATIENCE, all.join_all()).await.expect("every saga ends");
    assert_eq!(bank::balances(&store).await.2, SAGAS * 4);
    shutdown.begin();
    for task in running {
        task.await.unwrap();
    }
}

/// Whose attempts last longer than a lease keeps no partition for as long: its next owner makes them again.
#[tokio::test(flavor = "multi_thread")]
async fn attempts_that_last_do_not_keep_their_partitions() {
    const SAGAS: usize = 64;
    let folder = tempfile::tempdir().unwrap();
    let store = bank::open(folder.path()).await;
    let saga = SagaType::plan("long", |mut plan: Plan<Desk, usize>| {
        let input = plan.input();
        plan.step("act", input, act).no_compensation("it always succeeds");
        plan.finish(input)
    });
    let (saga, desk) = (saga.unwrap(), Arc::new(Desk::default()));
    let shutdown = Shutdown::default();
    let runner = |owner: &'static str| {
        let options = world::options(Sabotage::default());
        SagaRunner::new(bank::journal(&store), options, owner).serve(&saga, &desk)
    };
    let first = runner("one");
    let sagas = first.sagas();
    let mut running = vec![tokio::spawn(first.run(shutdown.clone()))];
    let mut ids = Vec::new();
    for number in 0..SAGAS {
        ids.push(sagas.start(&saga, format!("s-{number}"), &number).await.unwrap().id);
    }
    until("all attempts", async || desk.calls.load(Ordering::SeqCst) == SAGAS).await;
    running.push(tokio::spawn(runner("two").run(shutdown.clone())));
    until("some are made again", async || desk.calls.load(Ordering::SeqCst) > SAGAS).await;
    desk.may_end.send_replace(true);
    for id in ids {
        let ended = tokio::time::timeout(PATIENCE, sagas.ended(id)).await;
        ended.expect("every saga ends").unwrap();
    }
    shutdown.begin();
    for task in running {
        task.await.unwrap();
    }
}

/// Holds up the first commit in which a saga is started that is for its next owner.
fn holding_a_start(
    held: watch::Sender<bool>,
    may: watch::Receiver<bool>,
) -> super::between::Commit {
    Box::new(move |store, batch| {
        let is_start = |op: &Op| matches!(op, Op::StartSaga(_));
        let is_foreign = |item: &Item| item.fence.is_none() && item.ops.iter().any(is_start);
        let is_first = batch.items.iter().any(is_foreign) && !held.send_replace(true);
        let mut may = may.clone();
        Box::pin(async move {
            if is_first {
                may.wait_for(|may| *may).await.unwrap();
            }
            store.commit(batch).await
        })
    })
}

/// A saga is started for a partition that leaves: that is for its next owner, and the partition does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn starts_keep_no_partition() {
    let folder = tempfile::tempdir().unwrap();
    let store = bank::open(folder.path()).await;
    let saga = SagaType::plan("short", |mut plan: Plan<(), usize>| {
        let input = plan.input();
        plan.sleep("rest", std::time::Duration::ZERO);
        plan.finish(input)
    });
    let (saga, shutdown) = (saga.unwrap(), Shutdown::default());
    let runner = |journal: Arc<dyn Journal>, owner: &'static str| {
        // A start shares its commit with nothing that has to be waited for.
        let options = SagaOptions { batch_max: 1, ..world::options(Sabotage::default()) };
        SagaRunner::new(journal, options, owner).serve(&saga, &Arc::new(()))
    };
    let (held, may) = (watch::Sender::new(false), watch::Sender::new(false));
    let between = Between::new(store.clone(), holding_a_start(held.clone(), may.subscribe()));
    let first = runner(Arc::new(between), "one");
    let sagas = first.sagas();
    let mut running = vec![tokio::spawn(first.run(shutdown.clone()))];
    let held_by = async |owner: &str| {
        let leases = store.leases().await.unwrap();
        leases.iter().filter(|lease| lease.owner.as_deref() == Some(owner)).count()
    };
    until("all partitions", async || held_by("one").await == 32).await;
    let starting = tokio::spawn({
        let (sagas, saga, held) = (sagas.clone(), saga.clone(), held.subscribe());
        async move {
            let mut all = tokio::task::JoinSet::new();
            for number in 0.. {
                let (sagas, saga) = (sagas.clone(), saga.clone());
                all.spawn(async move { sagas.start(&saga, format!("s-{number}"), &number).await });
                if *held.borrow() {
                    return all.join_all().await;
                }
                tokio::task::yield_now().await;
                if all.len() > 50 {
                    all.join_next().await.unwrap().unwrap().unwrap();
                }
            }
            Vec::new()
        }
    });
    running.push(tokio::spawn(runner(bank::journal(&store), "two").run(shutdown.clone())));
    held.subscribe().wait_for(|held| *held).await.unwrap();
    until("a fair share", async || held_by("two").await == 16).await;
    may.send_replace(true);
    for started in starting.await.unwrap() {
        let ended = tokio::time::timeout(PATIENCE, sagas.ended(started.unwrap().id)).await;
        ended.expect("every saga ends").unwrap();
    }
    shutdown.begin();
    for task in running {
        task.await.unwrap();
    }
}

struct Desk {
    calls: AtomicUsize,
    may_end: watch::Sender<bool>,
}

impl Default for Desk {
    fn default() -> Self {
        Self { calls: AtomicUsize::new(0), may_end: watch::Sender::new(false) }
    }
}

async fn act(cx: Cx<Desk>, _: usize) -> StepResult<()> {
    cx.calls.fetch_add(1, Ordering::SeqCst);
    cx.may_end.subscribe().wait_for(|may| *may).await.map_err(onewrite::other)?;
    Ok(())
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use onewrite::{
        Shutdown,
        postgres::{Options, PostgresStore},
        sabotage::Sabotage,
        saga::{Cx, Plan, SagaOptions, SagaRunner, SagaType, StepError, StepOptions, postgres},
    };
    use onewrite_testservers::Postgres;
    use tokio::sync::Notify;

    use super::{super::world, PATIENCE};

    #[derive(Default)]
    struct Clerk {
        has_begun: AtomicBool,
        began: Notify,
        passed: Notify,
    }

    /// The first branch of the first saga lasts until a branch of the second one is made.
    async fn act(cx: &Cx<Clerk>, number: u32) {
        if number != 1 {
            cx.passed.notify_one();
        } else if !cx.has_begun.swap(true, Ordering::SeqCst) {
            cx.began.notify_one();
            cx.passed.notified().await;
        }
    }

    /// A participant serves one at a time. Whoever cannot use their turn leaves it to the others.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_branch_that_waits_for_another_one_keeps_nobody_from_its_participant() {
        let server = Postgres::start().await.unwrap();
        let options = Options::from_url(&server.url("postgres")).unwrap();
        let store = PostgresStore::open(options).await.unwrap();
        let state = |mut plan: Plan<Clerk, u32>| {
            // Longer than is waited for here.
            let attempt_timeout = Some(PATIENCE * 10);
            plan.options(StepOptions { attempt_timeout, ..StepOptions::default() });
            let input = plan.input();
            plan.parallel(|plan| {
                for branch in ["a", "b"] {
                    let act = postgres::action(&store, |_, cx: Cx<Clerk>, number: u32| {
                        Box::pin(async move {
                            act(&cx, number).await;
                            Ok::<(), StepError>(())
                        })
                    });
                    plan.step_in(branch, input, act).no_compensation("it always succeeds");
                }
            });
            plan.finish(input)
        };
        let (saga, clerk) = (SagaType::plan("turns", state).unwrap(), Arc::new(Clerk::default()));
        let options = SagaOptions { participant_max: 1, ..world::options(Sabotage::default()) };
        let runner = SagaRunner::new(Arc::new(store.clone()), options, "one").serve(&saga, &clerk);
        let (sagas, shutdown) = (runner.sagas(), Shutdown::default());
        let running = tokio::spawn(runner.run(shutdown.clone()));
        let first = tokio::spawn({
            let (sagas, saga) = (sagas.clone(), saga.clone());
            async move { sagas.run(&saga, "1", &1).await.unwrap() }
        });
        let began = tokio::time::timeout(PATIENCE, clerk.began.notified()).await;
        began.expect("the first begins");
        let both = async { (sagas.run(&saga, "2", &2).await.unwrap(), first.await.unwrap()) };
        tokio::time::timeout(PATIENCE, both).await.expect("both end");
        shutdown.begin();
        running.await.unwrap();
    }
}

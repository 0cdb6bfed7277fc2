//! S2: an effect and its journal row are one commit, so it happens once, whatever happens to the function,
//! its process or its lease.

use std::{path::Path, sync::Arc};

use onewrite::{
    Shutdown, Text,
    sabotage::Sabotage,
    saga::{Journal, Outcome, SagaRunner},
};
use onewrite_testkit::child::{Child, End};

use super::{
    bank::{self, COUNT, Clerk, TransferSaga, Trouble, transfer},
    world,
};
use crate::{rig::PATIENCE, role};

/// Makes every transfer, and says how often functions ran.
pub(crate) async fn make_all(journal: Arc<dyn Journal>, saga: TransferSaga, owner: &str) -> usize {
    make_each(journal, saga, owner, transfer).await
}

async fn make_each(
    journal: Arc<dyn Journal>,
    saga: TransferSaga,
    owner: &str,
    transfer: fn(usize) -> bank::Transfer,
) -> usize {
    let clerk = Arc::new(Clerk::default());
    let options = world::options(Sabotage::default());
    let runner = SagaRunner::new(journal, options, Text::from(owner.to_owned()));
    let runner = runner.serve(&saga, &clerk);
    let (sagas, shutdown) = (runner.sagas(), Shutdown::default());
    let running = tokio::spawn(runner.run(shutdown.clone()));
    let mut all = tokio::task::JoinSet::new();
    for number in 0..COUNT {
        let (sagas, saga, transfer) = (sagas.clone(), saga.clone(), transfer(number));
        all.spawn(async move {
            let outcome = sagas.run(&saga, format!("t-{number}"), &transfer).await.unwrap();
            let refused = transfer.trouble == Trouble::Refused;
            assert_eq!(outcome == Outcome::Compensated, refused, "{transfer:?}");
        });
    }
    tokio::time::timeout(PATIENCE, all.join_all()).await.expect("every transfer ends");
    shutdown.begin();
    running.await.unwrap();
    clerk.runs.load(std::sync::atomic::Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_behind_its_write_has_no_effect() {
    let folder = tempfile::tempdir().unwrap();
    let store = bank::open(folder.path()).await;
    let runs = make_all(bank::journal(&store), bank::on_sqlite(&store), "one").await;
    assert_eq!(bank::balances(&store).await, bank::right());
    assert!(runs > 3 * COUNT, "functions failed, and ran again: {runs}");
}

/// The control: journaled afterwards, the same functions write twice.
#[tokio::test(flavor = "multi_thread")]
async fn journaled_afterwards_the_same_writes_happen_twice() {
    let folder = tempfile::tempdir().unwrap();
    let store = bank::open(folder.path()).await;
    make_all(bank::journal(&store), bank::apart(&store), "one").await;
    let (from, ..) = bank::balances(&store).await;
    assert!(from < bank::right().0, "nothing was withdrawn twice");
}

/// The child: makes every transfer.
pub(crate) async fn child(folder: &Path, together: bool) {
    if let Ok(url) = std::fs::read_to_string(folder.join(world::PLACE)) {
        return child_on_a_server(&url).await;
    }
    let store = bank::open(folder).await;
    role::ready();
    if together {
        make_all(bank::journal(&store), bank::on_sqlite(&store), "child").await;
    } else {
        // What happens twice is to do so because of the kill.
        make_each(bank::journal(&store), bank::apart(&store), "child", bank::calm).await;
    }
    // Its parent kills it, here at the latest.
    std::future::pending::<()>().await;
}

async fn child_on_a_server(url: &str) {
    role::ready();
    match url.split_once(':').map(|(scheme, _)| scheme) {
        #[cfg(feature = "postgres")]
        Some("postgres") => {
            let store = on_postgres::open(url).await;
            make_all(Arc::new(store.clone()), on_postgres::saga(&store), "child").await;
        }
        #[cfg(feature = "mysql")]
        Some("mysql") => {
            let store = on_mariadb::open(url).await;
            make_all(Arc::new(store.clone()), on_mariadb::saga(&store), "child").await;
        }
        _ => panic!("no store of this build is at {url}"),
    }
    std::future::pending::<()>().await;
}

/// Kills a process at each passing of `point` in `hits`.
async fn kill(role: &str, folder: &Path, point: &str, hits: &[u32]) {
    for hits in hits {
        let command = role::command(role, folder, Sabotage::default(), None);
        let mut child = Child::start(command).await.unwrap();
        child.arm(point, *hits).await.unwrap();
        let end = tokio::time::timeout(PATIENCE, child.wait()).await;
        assert_eq!(end.expect("the point is passed").unwrap(), End::Killed, "{point}");
    }
}

/// Kills a process at each passing of `point` in `hits`, lets another carry on; the balances afterwards.
async fn struck(role: &str, point: &str, hits: &[u32]) -> (i64, i64, i64) {
    let folder = tempfile::tempdir().unwrap();
    kill(role, folder.path(), point, hits).await;
    let store = bank::open(folder.path()).await;
    let saga = bank::on_sqlite(&store);
    make_all(bank::journal(&store), saga, "parent").await;
    bank::balances(&store).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_around_the_commit_of_a_step_it_happens_once() {
    for point in ["store.before_commit", "store.after_commit_before_reply"] {
        let balances = struck("saga-transfer", point, &[3, 8, 5]).await;
        assert_eq!(balances, bank::right(), "{point}");
    }
}

/// The control: committed apart from its journal, the effect of a killed process is there twice.
#[tokio::test(flavor = "multi_thread")]
async fn killed_between_effect_and_journal_it_happens_twice() {
    let point = "saga.after_attempt_before_journal";
    let struck = struck("saga-transfer-apart", point, &[5, 20]).await;
    let right = bank::right();
    let twice = (right.0 - struck.0) + (struck.1 - right.1) + (struck.2 - right.2);
    assert!(twice > 0, "nothing happened twice: {struck:?}, {right:?}");
}

/// Around the commit of a step, and the databases for it.
#[cfg(any(feature = "postgres", feature = "mysql"))]
const POINTS: [(&str, &str); 2] =
    [("before", "store.before_commit"), ("after", "store.after_commit_before_reply")];

#[cfg(feature = "postgres")]
mod on_postgres {
    use onewrite::{
        Result, other,
        postgres::{Options, PostgresStore, deadpool_postgres::Transaction},
        saga::{Cx, Plan, Retry, SagaType, StepError, postgres},
    };
    use onewrite_testservers::Postgres;

    use super::{super::bank::*, POINTS, kill, make_all, world::PLACE};

    async fn act(
        tx: &Transaction<'_>,
        sql: &str,
        step: &'static str,
        cx: &Cx<Clerk>,
        transfer: &Transfer,
    ) -> Result<(), Retry> {
        tx.execute(sql, &[]).await?;
        cx.stumbles(transfer, step)
    }

    pub(super) async fn open(url: &str) -> PostgresStore {
        PostgresStore::open(Options::from_url(url).unwrap()).await.unwrap()
    }

    async fn open_with_accounts(url: &str) -> PostgresStore {
        let store = open(url).await;
        let create = store
            .write(|tx| Box::pin(async move { tx.batch_execute(TABLES).await.map_err(other) }));
        create.await.unwrap();
        store
    }

    async fn balances(store: &PostgresStore) -> (i64, i64, i64) {
        let row = store.work().await.unwrap().query_one(BALANCES, &[]).await.unwrap();
        (row.get(0), row.get(1), row.get(2))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn killed_around_the_commit_of_a_step_it_happens_once() {
        let server = Postgres::start().await.unwrap();
        for (name, point) in POINTS {
            server.create_database(name).await.unwrap();
            let (url, folder) = (server.url(name), tempfile::tempdir().unwrap());
            let store = open_with_accounts(&url).await;
            std::fs::write(folder.path().join(PLACE), url).unwrap();
            kill("saga-transfer", folder.path(), point, &[3, 20, 15]).await;
            make_all(std::sync::Arc::new(store.clone()), saga(&store), "parent").await;
            assert_eq!(balances(&store).await, right(), "{point}");
        }
    }

    pub(super) fn saga(store: &PostgresStore) -> TransferSaga {
        let state = |mut plan: Plan<Clerk, Transfer>| {
            patient(&mut plan);
            let input = plan.input();
            let withdraw = postgres::action(store, |tx, cx: Cx<Clerk>, transfer: Transfer| {
                Box::pin(async move {
                    act(tx, WITHDRAW, "withdraw", &cx, &transfer).await?;
                    Ok(CENTS)
                })
            });
            let give_back = postgres::compensation(
                store,
                |tx, cx: Cx<Clerk>, transfer: Transfer, taken: Option<i64>| {
                    Box::pin(async move {
                        let sql = if taken == Some(CENTS) { GIVE_BACK } else { "SELECT 1" };
                        act(tx, sql, "give back", &cx, &transfer).await
                    })
                },
            );
            let withdrawn = plan.step_in("withdraw", input, withdraw).compensate_in(give_back);
            let deposit = postgres::action(store, |tx, cx: Cx<Clerk>, (transfer, cents)| {
                let transfer: Transfer = transfer;
                Box::pin(async move {
                    tx.execute(DEPOSIT, &[]).await?;
                    if transfer.trouble == Trouble::Refused {
                        return Err(StepError::abort("refused"));
                    }
                    cx.stumbles(&transfer, "deposit")?;
                    Ok::<i64, StepError>(cents)
                })
            });
            let (mut plan, paid) = plan.pivot_in("deposit", (input, withdrawn), deposit);
            let tell = postgres::action(store, |tx, cx: Cx<Clerk>, (transfer, cents)| {
                let transfer: Transfer = transfer;
                Box::pin(async move {
                    act(tx, WRITE_LETTER, "tell", &cx, &transfer).await?;
                    Ok::<i64, Retry>(cents)
                })
            });
            let told = plan.step_in("tell", (input, paid), tell);
            plan.finish(told)
        };
        SagaType::plan("transfer", state).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_fails_behind_its_write_has_no_effect() {
        let server = Postgres::start().await.unwrap();
        let store = open_with_accounts(&server.url("postgres")).await;
        let runs = make_all(std::sync::Arc::new(store.clone()), saga(&store), "one").await;
        assert_eq!(balances(&store).await, right());
        assert!(runs > 3 * COUNT, "functions failed, and ran again: {runs}");
    }
}

#[cfg(feature = "mysql")]
mod on_mariadb {
    use std::sync::{Arc, atomic::Ordering};

    use onewrite::{
        Result, Shutdown,
        mysql::{
            MysqlStore, Options,
            mysql_async::{Transaction, prelude::Queryable as _},
        },
        sabotage::Sabotage,
        saga::{
            Cx, Outcome, Plan, Retry, RetryPolicy, SagaRunner, SagaType, StepError, StepOptions,
            mysql,
        },
    };
    use onewrite_testservers::Mariadb;

    use super::{
        super::bank::*,
        PATIENCE, POINTS, kill, make_all,
        world::{self, PLACE},
    };

    async fn act(
        tx: &mut Transaction<'static>,
        sql: &str,
        step: &'static str,
        cx: &Cx<Clerk>,
        transfer: &Transfer,
    ) -> Result<(), Retry> {
        tx.query_drop(sql).await?;
        cx.stumbles(transfer, step)
    }

    pub(super) async fn open(url: &str) -> MysqlStore {
        MysqlStore::open(Options::from_url(url).unwrap()).await.unwrap()
    }

    async fn open_with_accounts(server: &Mariadb, name: &str) -> MysqlStore {
        server.address().create_database(name).await.unwrap();
        server.address().sql(name, TABLES).await.unwrap();
        open(&server.address().url(name)).await
    }

    async fn balances(store: &MysqlStore) -> (i64, i64, i64) {
        let mut conn = store.options().connect().await.unwrap();
        conn.query_first(BALANCES).await.unwrap().unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn killed_around_the_commit_of_a_step_it_happens_once() {
        let server = Mariadb::start().await.unwrap();
        for (name, point) in POINTS {
            let folder = tempfile::tempdir().unwrap();
            let store = open_with_accounts(&server, name).await;
            std::fs::write(folder.path().join(PLACE), server.address().url(name)).unwrap();
            kill("saga-transfer", folder.path(), point, &[3, 20, 15]).await;
            make_all(Arc::new(store.clone()), saga(&store), "parent").await;
            assert_eq!(balances(&store).await, right(), "{point}");
        }
    }

    pub(super) fn saga(store: &MysqlStore) -> TransferSaga {
        let state = |mut plan: Plan<Clerk, Transfer>| {
            patient(&mut plan);
            let input = plan.input();
            let withdraw = mysql::action(store, |tx, cx: Cx<Clerk>, transfer: Transfer| {
                Box::pin(async move {
                    act(tx, WITHDRAW, "withdraw", &cx, &transfer).await?;
                    Ok(CENTS)
                })
            });
            let give_back = mysql::compensation(
                store,
                |tx, cx: Cx<Clerk>, transfer: Transfer, taken: Option<i64>| {
                    Box::pin(async move {
                        let sql = if taken == Some(CENTS) { GIVE_BACK } else { "SELECT 1" };
                        act(tx, sql, "give back", &cx, &transfer).await
                    })
                },
            );
            let withdrawn = plan.step_in("withdraw", input, withdraw).compensate_in(give_back);
            let deposit = mysql::action(store, |tx, cx: Cx<Clerk>, (transfer, cents)| {
                let transfer: Transfer = transfer;
                Box::pin(async move {
                    tx.query_drop(DEPOSIT).await?;
                    if transfer.trouble == Trouble::Refused {
                        return Err(StepError::abort("refused"));
                    }
                    cx.stumbles(&transfer, "deposit")?;
                    Ok::<i64, StepError>(cents)
                })
            });
            let (mut plan, paid) = plan.pivot_in("deposit", (input, withdrawn), deposit);
            let tell = mysql::action(store, |tx, cx: Cx<Clerk>, (transfer, cents)| {
                let transfer: Transfer = transfer;
                Box::pin(async move {
                    act(tx, WRITE_LETTER, "tell", &cx, &transfer).await?;
                    Ok::<i64, Retry>(cents)
                })
            });
            let told = plan.step_in("tell", (input, paid), tell);
            plan.finish(told)
        };
        SagaType::plan("transfer", state).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_fails_behind_its_write_has_no_effect() {
        let server = Mariadb::start().await.unwrap();
        let store = open_with_accounts(&server, "bank").await;
        let runs = make_all(Arc::new(store.clone()), saga(&store), "one").await;
        assert_eq!(balances(&store).await, right());
        assert!(runs > 3 * COUNT, "functions failed, and ran again: {runs}");
    }

    /// It does so each time: that is no wait for somebody else, and its budget ends.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_step_that_ends_its_transaction_uses_up_its_attempts() {
        let server = Mariadb::start().await.unwrap();
        let store = open_with_accounts(&server, "bank").await;
        let state = |mut plan: Plan<Clerk, ()>| {
            let retry = Some(RetryPolicy { initial_ms: 2, ..RetryPolicy::attempts(3) });
            plan.options(StepOptions { retry, ..StepOptions::default() });
            let input = plan.input();
            let act = mysql::action(&store, |tx, cx: Cx<Clerk>, ()| {
                Box::pin(async move {
                    cx.runs.fetch_add(1, Ordering::Relaxed);
                    tx.query_drop("CREATE TABLE IF NOT EXISTS other (n INT)").await?;
                    Ok::<(), StepError>(())
                })
            });
            let undo = mysql::compensation(&store, |_, _: Cx<Clerk>, (), _: Option<()>| {
                Box::pin(async { Ok::<(), Retry>(()) })
            });
            let made = plan.step_in("act", input, act).compensate_in(undo);
            plan.finish(made)
        };
        let (saga, clerk) = (SagaType::plan("ends", state).unwrap(), Arc::new(Clerk::default()));
        let options = world::options(Sabotage::default());
        let runner = SagaRunner::new(Arc::new(store.clone()), options, "one").serve(&saga, &clerk);
        let (sagas, shutdown) = (runner.sagas(), Shutdown::default());
        let running = tokio::spawn(runner.run(shutdown.clone()));
        let ended = tokio::time::timeout(PATIENCE, sagas.run(&saga, "s", &())).await;
        assert_eq!(ended.expect("it ends").unwrap(), Outcome::Compensated);
        assert_eq!(clerk.runs.load(Ordering::Relaxed), 3);
        shutdown.begin();
        running.await.unwrap();
    }
}

//! What sagas act upon: a database with one row for each effect, and the judgement over it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use onewrite::{
    Result, Shutdown, Text, other,
    sabotage::Sabotage,
    saga::{
        Cx, Finished, Journal, Plan, Retry, RetryPolicy, SagaOptions, SagaRunner, SagaType, Sagas,
        State, StepError, StepOptions, StepResult,
        journal::{FindSagas, SavedSaga},
    },
    sqlite::{Options, SqliteStore},
};
use onewrite_core::saga::Saga;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

/// The steps in their order.
pub(crate) const STEPS: [&str; 5] = ["pay", "reserve", "schedule", "confirm", "notify"];

/// Sagas that are started.
pub(crate) const COUNT: usize = 30;

/// The leases of the tests' runners.
pub(crate) const LEASE: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) key: String,
    /// The step that says no.
    pub(crate) fails: Option<String>,
}

/// Every third order fails, each time at another step.
pub(crate) fn order(number: usize) -> Order {
    let fails = number.is_multiple_of(3).then(|| STEPS[number / 3 % 4].to_owned());
    Order { key: format!("order-{number}"), fails }
}

/// A database of effects.
pub(crate) struct World {
    pub(crate) store: SqliteStore,
    /// Whether a repetition is recognised by its key, and a late action refused.
    knows_keys: bool,
    /// The step `schedule` waits until this file is there.
    gate: Option<PathBuf>,
}

/// The name of the file that opens the gate.
pub(crate) const GATE: &str = "gate";

impl World {
    pub(crate) async fn open(folder: &Path, knows_keys: bool) -> Arc<Self> {
        Self::open_gated(folder, knows_keys, false).await
    }

    pub(crate) async fn open_gated(folder: &Path, knows_keys: bool, gated: bool) -> Arc<Self> {
        let gate = gated.then(|| folder.join(GATE));
        let store = SqliteStore::open(Options::new(folder.join("world.db"))).unwrap();
        let tables = "CREATE TABLE IF NOT EXISTS effect (n INTEGER PRIMARY KEY, saga TEXT, step TEXT, what TEXT);
            CREATE INDEX IF NOT EXISTS effect_key ON effect (saga, step, what)";
        store.write(move |tx| tx.execute_batch(tables).map_err(other)).await.unwrap();
        Arc::new(Self { store, knows_keys, gate })
    }

    /// Carries out the action of a step: once, and not behind its compensation.
    async fn act(&self, saga: String, step: &'static str) -> Result<bool> {
        let shut = |gate: &PathBuf| step == "schedule" && !gate.exists();
        while self.gate.as_ref().is_some_and(shut) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let knows_keys = self.knows_keys;
        let known = "SELECT count(*) FROM effect WHERE saga = ?1 AND step = ?2";
        let insert = "INSERT INTO effect (saga, step, what) VALUES (?1, ?2, 'done')";
        self.store
            .write(move |tx| {
                let binds = (&saga, step);
                let seen: i64 = tx.query_row(known, binds, |row| row.get(0)).map_err(other)?;
                if seen == 0 || !knows_keys {
                    tx.execute(insert, binds).map_err(other)?;
                }
                Ok(seen < 2)
            })
            .await
    }

    async fn undo(&self, saga: String, step: &'static str) -> Result<()> {
        let insert = "INSERT INTO effect (saga, step, what) SELECT ?1, ?2, ?3
            WHERE NOT EXISTS (SELECT 1 FROM effect WHERE saga = ?1 AND step = ?2 AND what = ?3)";
        self.store
            .write(move |tx| {
                let was =
                    "SELECT count(*) FROM effect WHERE saga = ?1 AND step = ?2 AND what = 'done'";
                let done: i64 =
                    tx.query_row(was, (&saga, step), |row| row.get(0)).map_err(other)?;
                // Of an action without effect nothing is undone, and it is refused from now on.
                let what = if done == 0 { "barred" } else { "undone" };
                tx.execute(insert, (&saga, step, what)).map_err(other).map(drop)
            })
            .await
    }

    /// The effects of each saga, in order.
    pub(crate) async fn effects(&self) -> BTreeMap<String, Vec<(String, String)>> {
        let rows = self.store.read_with(|db| {
            let sql = "SELECT saga, step, what FROM effect ORDER BY n";
            let mut statement = db.prepare(sql).map_err(other)?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
            rows.map_err(other)?
                .collect::<Result<Vec<(String, String, String)>, _>>()
                .map_err(other)
        });
        let mut effects: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (saga, step, what) in rows.await.unwrap() {
            effects.entry(saga).or_default().push((step, what));
        }
        effects
    }
}

macro_rules! step {
    ($action:ident, $compensation:ident, $name:literal) => {
        async fn $action(cx: Cx<World>, order: Order) -> StepResult<String> {
            if order.fails.as_deref() == Some($name) {
                return Err(StepError::abort("the order is to fail here"));
            }
            if !cx.act(cx.saga().to_string(), $name).await? {
                return Err(StepError::abort("it is compensated already"));
            }
            Ok(cx.key().to_string())
        }

        async fn $compensation(cx: Cx<World>, _: Order, _: Option<String>) -> Result<(), Retry> {
            Ok(cx.undo(cx.saga().to_string(), $name).await?)
        }
    };
}

step!(pay, refund, "pay");
step!(reserve, release, "reserve");
step!(schedule, unschedule, "schedule");

async fn confirm(cx: Cx<World>, order: Order) -> StepResult<()> {
    if order.fails.as_deref() == Some("confirm") {
        return Err(StepError::abort("the order is to fail here"));
    }
    cx.act(cx.saga().to_string(), "confirm").await?;
    Ok(())
}

async fn notify(cx: Cx<World>, (order, (), paid): (Order, (), String)) -> Result<String, Retry> {
    cx.act(cx.saga().to_string(), "notify").await?;
    Ok(format!("{} {paid}", order.key))
}

fn place_order(mut plan: Plan<World, Order>) -> Finished<World, Order, String> {
    // Kills are counted as attempts, and the test kills more often than a budget would forgive.
    let retry = Some(RetryPolicy { initial_ms: 2, cap_ms: 20, ..RetryPolicy::attempts(100) });
    plan.options(StepOptions { retry, ..StepOptions::default() });
    let order = plan.input();
    let paid = plan.step("pay", order, pay).compensate(refund);
    plan.parallel(|plan| {
        plan.step("reserve", order, reserve).compensate(release);
        plan.step("schedule", order, schedule).compensate(unschedule);
    });
    let (mut plan, confirmed) = plan.pivot("confirm", order, confirm);
    let told = plan.step("notify", (order, confirmed, paid), notify);
    plan.finish(told)
}

pub(crate) type OrderSaga = SagaType<World, Order, String>;

pub(crate) fn order_saga() -> OrderSaga {
    SagaType::plan("place_order", place_order).unwrap()
}

pub(crate) fn store(folder: &Path, sabotage: Sabotage) -> SqliteStore {
    let options = Options { sabotage, ..Options::new(folder.join("sagas.db")) };
    SqliteStore::open(options).unwrap()
}

/// The name of the file that says where the sagas are, if that is a server.
pub(crate) const PLACE: &str = "place";

/// The journal of this folder: on the server that it names, or in a file of its own.
pub(crate) async fn journal(folder: &Path, sabotage: Sabotage) -> Arc<dyn Journal> {
    match std::fs::read_to_string(folder.join(PLACE)) {
        #[cfg(feature = "postgres")]
        Ok(url) if url.starts_with("postgres") => {
            use onewrite::postgres::{Options, PostgresStore};
            let options = Options { sabotage, ..Options::from_url(&url).unwrap() };
            Arc::new(PostgresStore::open(options).await.unwrap())
        }
        #[cfg(feature = "mysql")]
        Ok(url) if url.starts_with("mysql") => {
            use onewrite::mysql::{MysqlStore, Options};
            let options = Options { sabotage, ..Options::from_url(&url).unwrap() };
            Arc::new(MysqlStore::open(options).await.unwrap())
        }
        Ok(url) => panic!("no store of this build is at {url}"),
        Err(_) => Arc::new(store(folder, sabotage)),
    }
}

pub(crate) fn options(sabotage: Sabotage) -> SagaOptions {
    let poll = Duration::from_millis(20);
    SagaOptions { lease_ttl: LEASE, poll, sabotage, ..SagaOptions::default() }
}

/// A runner at work.
pub(crate) struct Running {
    pub(crate) sagas: Sagas,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(
        store: Arc<dyn Journal>,
        world: &Arc<World>,
        owner: &'static str,
        sabotage: Sabotage,
    ) -> Self {
        let runner = SagaRunner::new(store, options(sabotage), Text::from_static(owner))
            .serve(&order_saga(), world);
        let (sagas, shutdown) = (runner.sagas(), Shutdown::default());
        let task = tokio::spawn(runner.run(shutdown.clone()));
        Self { sagas, shutdown, task }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.begin();
        self.task.await.unwrap();
    }
}

/// Starts every order, again where that was done before, and waits for their ends.
pub(crate) async fn run_all(sagas: &Sagas) {
    let (saga, mut all) = (order_saga(), tokio::task::JoinSet::new());
    for number in 0..COUNT {
        let (sagas, saga, order) = (sagas.clone(), saga.clone(), order(number));
        all.spawn(async move { sagas.run(&saga, order.key.clone(), &order).await.unwrap() });
    }
    all.join_all().await;
}

/// What the judgement says is wrong, for each saga.
pub(crate) async fn judge(journal: &dyn Journal, world: &World) -> Vec<String> {
    let (mut wrong, mut effects) = (Vec::new(), world.effects().await);
    for number in 0..COUNT {
        let order = order(number);
        let key: Text = order.key.clone().into();
        let find = FindSagas::Key { name: "place_order".into(), key };
        let Some(saved) = journal.sagas(find).await.unwrap().pop() else {
            wrong.push(format!("{}: it was never started", order.key));
            continue;
        };
        let own = effects.remove(&saved.id.to_string()).unwrap_or_default();
        let faults = faults(&order, &saved, &own);
        wrong.extend(faults.into_iter().map(|fault| format!("{}: {fault}: {own:?}", order.key)));
    }
    wrong.extend(effects.keys().map(|saga| format!("{saga} has effects, and no journal knows it")));
    wrong
}

fn faults(order: &Order, saved: &SavedSaga, effects: &[(String, String)]) -> Vec<&'static str> {
    let all = |wanted: &str| {
        let of = effects.iter().filter(|(_, what)| what == wanted);
        of.map(|(step, _)| step.as_str()).collect::<Vec<_>>()
    };
    let (done, mut undone) = (all("done"), all("undone"));
    let mut faults = Vec::new();
    let mut check = |holds: bool, fault| {
        if !holds {
            faults.push(fault);
        }
    };
    let mut distinct = done.clone();
    distinct.sort_unstable();
    distinct.dedup();
    check(distinct.len() == done.len(), "an effect twice");
    match saved.standing.state {
        State::Completed => {
            check(order.fails.is_none(), "completed in spite of a failure");
            check(distinct.len() == STEPS.len(), "completed without all effects");
            check(undone.is_empty(), "completed and compensated");
        }
        State::Compensated => {
            check(order.fails.is_some(), "compensated without a failure");
            undone.sort_unstable();
            check(undone == distinct, "reported compensated, and is not");
            // Steps that run beside one another may be undone in any order.
            let last = effects.iter().rev().find(|(_, what)| what == "undone");
            check(last.is_none_or(|(step, _)| step == "pay"), "compensated in another order");
        }
        _ => check(false, "it has not ended"),
    }
    let saga = Saga::recovered(saved, order_saga().checked().clone(), Sabotage::default());
    check(saga.is_ok(), "its journal contradicts itself");
    check(saga.is_ok_and(|saga| saga.has_ended()), "its journal does not come to an end");
    let epochs: Vec<_> = saved.journal.iter().map(|one| one.epoch).collect();
    check(epochs.is_sorted(), "an older owner wrote behind a newer one");
    let versions = saved.journal.iter().map(|one| one.version);
    check(versions.eq(1..=saved.journal.len() as u32), "its transitions have a gap");
    faults
}

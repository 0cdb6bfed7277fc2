//! `bench saga`: the order saga of four steps, completing and failing at the third.

mod fill;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use onewrite::{
    Shutdown, mysql, postgres,
    saga::{
        Cx, Finished, Outcome, Plan, Retry, SagaOptions, SagaRunner, SagaType, Sagas, StepError,
        StepResult, journal::Journal,
    },
    sqlite,
};
use onewrite_testkit::server::{Mariadb, Postgres};
use serde::{Deserialize, Serialize};

use crate::{load::Latencies, machine::Machine, report::Report};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print one JSON object on the last line.
    #[arg(long)]
    json: bool,
    /// How long each figure is measured, in seconds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Sagas under way at the same time.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    concurrency: Vec<usize>,
    /// Sagas that the store holds and that have ended.
    #[arg(long, default_value_t = 0)]
    finished: u64,
    /// Sagas that the store holds and that wait for a signal.
    #[arg(long, default_value_t = 0)]
    waiting: u64,
    /// Only on this store; may be given several times.
    #[arg(long, value_enum)]
    only: Vec<On>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    customer: String,
    sku: String,
    quantity: u32,
    cents: u64,
    in_stock: bool,
}

fn place_order(mut plan: Plan<(), Order>) -> Finished<(), Order, u64> {
    let order = plan.input();
    let paid = plan.step("pay", order, pay).compensate(refund);
    let hold = plan.step("reserve", order, reserve).compensate(release);
    let parcel = plan.step("schedule", (order, hold), schedule).compensate(unschedule);
    let (plan, done) = plan.pivot("confirm", (paid, parcel), confirm);
    plan.finish(done)
}

async fn pay(_: Cx<()>, order: Order) -> StepResult<u64> {
    Ok(order.cents)
}

async fn refund(_: Cx<()>, _: Order, _: Option<u64>) -> Result<(), Retry> {
    Ok(())
}

async fn reserve(_: Cx<()>, order: Order) -> StepResult<u32> {
    Ok(order.quantity)
}

async fn release(_: Cx<()>, _: Order, _: Option<u32>) -> Result<(), Retry> {
    Ok(())
}

async fn schedule(_: Cx<()>, (order, hold): (Order, u32)) -> StepResult<u64> {
    if order.in_stock { Ok(u64::from(hold)) } else { Err(StepError::abort("out of stock")) }
}

async fn unschedule(_: Cx<()>, _: (Order, u32), _: Option<u64>) -> Result<(), Retry> {
    Ok(())
}

async fn confirm(_: Cx<()>, (paid, parcel): (u64, u64)) -> StepResult<u64> {
    Ok(paid + parcel)
}

/// The stores that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum On {
    /// A file below the target directory.
    Sqlite,
    /// A private PostgreSQL.
    Postgres,
    /// A private MariaDB.
    Mariadb,
}

/// Measures on each store in turn.
///
/// # Errors
/// When a server cannot be started, or what the store says.
pub(crate) async fn run(options: Options) -> Result<()> {
    let folder = crate::folder()?;
    let mut report = Report::new("saga", Machine::look(folder.path()).await?);
    let every = [On::Sqlite, On::Postgres, On::Mariadb];
    for on in every.into_iter().filter(|on| options.only.is_empty() || options.only.contains(on)) {
        match on {
            On::Sqlite => {
                let file = sqlite::Options::new(folder.path().join("sagas.db"));
                let store = Arc::new(sqlite::SqliteStore::open(file)?);
                measure(&mut report, ("sqlite", folder.path()), store, &options).await?;
            }
            On::Postgres => {
                let server = Postgres::start().await.context("start PostgreSQL")?;
                server.create_database("sagas").await.context("create a database")?;
                let place = postgres::Options::from_url(&server.url("sagas"))?;
                let store = Arc::new(postgres::PostgresStore::open(place).await?);
                measure(&mut report, ("postgres", folder.path()), store, &options).await?;
            }
            On::Mariadb => {
                let server = Mariadb::start_with(&["--innodb-buffer-pool-size=512M"]).await;
                let server = server.context("start MariaDB")?;
                server.address().create_database("sagas").await.context("create a database")?;
                let place = mysql::Options::from_url(&server.address().url("sagas"))?;
                let store = Arc::new(mysql::MysqlStore::open(place).await?);
                measure(&mut report, ("mariadb", folder.path()), store, &options).await?;
            }
        }
    }
    report.print(options.json);
    Ok(())
}

async fn measure(
    report: &mut Report,
    (section, folder): (&'static str, &Path),
    store: Arc<dyn Journal>,
    options: &Options,
) -> Result<()> {
    let time = Duration::from_secs(options.seconds);
    let saga = SagaType::plan("place_order", place_order)?;
    fill::fill(&*store, saga.checked(), (options.finished, options.waiting)).await?;
    let shutdown = Shutdown::default();
    let runner =
        SagaRunner::new(store, SagaOptions::default(), "bench").serve(&saga, &Arc::new(()));
    let sagas = runner.sagas();
    let running = tokio::spawn(runner.run(shutdown.clone()));
    for (word, in_stock) in [("completed", true), ("compensated", false)] {
        for clients in &options.concurrency {
            let flushed = crate::machine::flushes(folder);
            let (count, latencies, cpu) = drive(&sagas, &saga, *clients, in_stock, time).await?;
            let flushed = crate::machine::flushes(folder).zip(flushed);
            let (name, each) = (format!("{word}_{clients}"), count.max(1) as f64);
            report.set(section, format!("{name}_per_s"), count as f64 / time.as_secs_f64());
            report.set_latencies(section, &name, &latencies);
            report.set(section, format!("{name}_cpu_us"), cpu * 1e6 / each);
            if let Some((after, before)) = flushed {
                report.set(section, format!("{name}_flushes"), (after - before) as f64 / each);
            }
        }
    }
    shutdown.begin();
    running.await.context("the runner of sagas")
}

/// Starts sagas from so many clients, each waiting for the end of its own; returns how many ended, how
/// long each took, and the processor's time in seconds.
async fn drive(
    sagas: &Sagas,
    saga: &SagaType<(), Order, u64>,
    clients: usize,
    in_stock: bool,
    time: Duration,
) -> Result<(u64, Latencies, f64)> {
    static KEY: AtomicU64 = AtomicU64::new(0);
    let until = Instant::now() + time;
    let before = crate::machine::cpu_seconds();
    let mut work = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let (sagas, saga) = (sagas.clone(), saga.clone());
        work.spawn(async move {
            let mut latencies = Latencies::new()?;
            while Instant::now() < until {
                let key = format!("order-{}", KEY.fetch_add(1, Ordering::Relaxed));
                let order = Order {
                    customer: "customer-17".into(),
                    sku: "book".into(),
                    quantity: 1,
                    cents: 1_500,
                    in_stock,
                };
                let began = Instant::now();
                let outcome = sagas.run(&saga, key, &order).await?;
                latencies.add(began.elapsed());
                if (outcome == Outcome::Compensated) == in_stock {
                    bail!("a saga ended otherwise than it should");
                }
            }
            Ok(latencies)
        });
    }
    let mut all = Latencies::new()?;
    while let Some(done) = work.join_next().await {
        all.merge(&done??)?;
    }
    Ok((all.count(), all, crate::machine::cpu_seconds() - before))
}

//! `bench saga`: the order saga of four steps, completing and failing at the third.

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
    Shutdown,
    saga::{
        Cx, Finished, Outcome, Plan, Retry, SagaOptions, SagaRunner, SagaType, Sagas, StepError,
        StepResult, journal::Journal,
    },
    sqlite,
};
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

pub(crate) async fn run(options: Options) -> Result<()> {
    let folder = crate::folder()?;
    let mut report = Report::new("saga", Machine::look(folder.path()).await?);
    let time = Duration::from_secs(options.seconds);
    let file = folder.path().join("sagas.db");
    let store: Arc<dyn Journal> = Arc::new(sqlite::SqliteStore::open(sqlite::Options::new(&file))?);
    measure(&mut report, "sqlite", store, &options.concurrency, time, Some(&file)).await?;
    report.print(options.json);
    Ok(())
}

async fn measure(
    report: &mut Report,
    section: &'static str,
    store: Arc<dyn Journal>,
    concurrency: &[usize],
    time: Duration,
    _file: Option<&Path>,
) -> Result<()> {
    let saga = SagaType::plan("place_order", place_order)?;
    let shutdown = Shutdown::default();
    let runner =
        SagaRunner::new(store, SagaOptions::default(), "bench").serve(&saga, &Arc::new(()));
    let sagas = runner.sagas();
    let running = tokio::spawn(runner.run(shutdown.clone()));
    for (word, in_stock) in [("completed", true), ("compensated", false)] {
        for clients in concurrency {
            let (count, latencies, cpu) = drive(&sagas, &saga, *clients, in_stock, time).await?;
            let seconds = time.as_secs_f64();
            report.set(section, format!("{word}_{clients}_per_s"), count as f64 / seconds);
            report.set_latencies(section, &format!("{word}_{clients}"), &latencies);
            report.set(
                section,
                format!("{word}_{clients}_cpu_us"),
                cpu * 1e6 / count.max(1) as f64,
            );
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

//! Benchmarks of the embedded spine, and the full forms of some hazards' tests.
//!
//! `spine` measures what the spine promises, each figure beside its machine and settings. `soak` runs
//! one hazard for minutes and ends with a verdict. Figures go to stdout (`--json`: one object on the
//! last line), progress to stderr. Everything is written below the target directory, on a real disk,
//! with `synchronous=FULL`.

mod brokers;
mod drain;
mod emit;
mod latency;
mod load;
mod machine;
mod mariadb;
mod postgres;
mod report;
mod saga;
mod serve;
mod soak;
mod writers;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};

use crate::{machine::Machine, report::Report};

/// Benchmarks and soaks of onewrite.
#[derive(Parser)]
#[command(name = "onewrite-bench")]
enum Command {
    /// Emit, drain, latency and writers, against their targets.
    Spine(Spine),
    /// The same on a private PostgreSQL, with 16 connections.
    Postgres(postgres::Options),
    /// The same on a private MariaDB.
    Mariadb(mariadb::Options),
    /// Publishing to brokers and reading from them, beside their own clients.
    Brokers(brokers::Options),
    /// The order saga of four steps.
    Saga(saga::Options),
    /// Sagas of four steps over HTTP, at `onewrite serve`.
    Serve(serve::Options),
    /// One hazard for minutes.
    Soak(soak::Options),
    /// A child process of a soak.
    #[command(hide = true)]
    Writer(soak::WriterOptions),
}

#[derive(clap::Args)]
struct Spine {
    /// Print one JSON object on the last line.
    #[arg(long)]
    json: bool,
    /// Run only this phase; may be given several times.
    #[arg(long, value_enum)]
    only: Vec<Phase>,
    /// How long each figure that takes a time is measured.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Events of the backlog that is drained.
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1_000..=5_000_000))]
    backlog: u64,
}

/// A group of figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Phase {
    /// The user's transaction with and without an event.
    Emit,
    /// The relay over a backlog.
    Drain,
    /// From commit to handler.
    Latency,
    /// The user's writes while a relay drains.
    Writers,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .init();
    let done = match Command::parse() {
        Command::Spine(options) => spine(options).await,
        Command::Postgres(options) => postgres::run(options).await,
        Command::Mariadb(options) => mariadb::run(options).await,
        Command::Brokers(options) => brokers::run(options).await,
        Command::Saga(options) => saga::run(options).await,
        Command::Serve(options) => serve::run(options).await,
        Command::Soak(options) => soak::run(options).await,
        Command::Writer(options) => soak::write(options).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn spine(options: Spine) -> Result<()> {
    let folder = folder()?;
    let time = Duration::from_secs(options.seconds);
    let mut report = Report::new("spine", Machine::look(folder.path()).await?);
    let phases = Phase::value_variants().iter();
    for phase in phases.filter(|phase| options.only.is_empty() || options.only.contains(phase)) {
        let name = format!("{phase:?}").to_lowercase();
        machine::forget_peak();
        match phase {
            Phase::Emit => emit::run(folder.path(), time, &mut report).await?,
            Phase::Drain => drain::run(folder.path(), options.backlog, &mut report).await?,
            Phase::Latency => latency::run(folder.path(), time, &mut report).await?,
            Phase::Writers => {
                writers::run(folder.path(), time, options.backlog * 2 / 5, &mut report).await?;
            }
        }
        report.set("memory", format!("{name}_peak_mib"), machine::peak_mib());
    }
    report.print(options.json);
    Ok(())
}

/// A fresh folder below the target directory, removed at the end.
fn folder() -> Result<tempfile::TempDir> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let parent = target.join("bench");
    std::fs::create_dir_all(&parent)
        .with_context(|| format!("create the folder {}", parent.display()))?;
    tempfile::tempdir_in(&parent)
        .with_context(|| format!("create a folder in {}", parent.display()))
}

//! The spine on a private PostgreSQL server, started for the run, fsync on.

pub(crate) mod drain;
mod emit;
mod latency;

use std::time::Duration;

use anyhow::{Context as _, Result};
use onewrite::postgres::{
    Options as StoreOptions, PostgresStore, tokio_postgres,
    tokio_postgres::{Client, NoTls},
};
use onewrite_testkit::server::{Nats, Postgres};

use crate::{machine::Machine, report::Report};

#[derive(clap::Args)]
pub(crate) struct Options {
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
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1_000..=5_000_000))]
    backlog: u64,
}

/// A group of figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Phase {
    /// The user's transaction with and without an event.
    Emit,
    /// The relay over a backlog.
    Drain,
    /// From commit to handler.
    Latency,
}

/// Measures on a server of its own.
///
/// # Errors
/// When the server cannot be started, or what it says.
pub(crate) async fn run(options: Options) -> Result<()> {
    let server = Postgres::start().await.context("start PostgreSQL")?;
    let time = Duration::from_secs(options.seconds);
    let mut report = Report::new("postgres", Machine::look(server.folder()).await?);
    let wanted = |phase| options.only.is_empty() || options.only.contains(&phase);
    if wanted(Phase::Emit) {
        emit::run(&server, time, &mut report).await?;
    }
    let nats = Nats::start().await.context("start NATS")?;
    if wanted(Phase::Drain) {
        drain::run(&server, &nats, options.backlog, &mut report).await?;
    }
    if wanted(Phase::Latency) {
        latency::run(&server, &nats, time, &mut report).await?;
    }
    report.print(options.json);
    Ok(())
}

/// A new database with a store.
async fn store(server: &Postgres, name: &str) -> Result<PostgresStore> {
    server.create_database(name).await.context("create a database")?;
    Ok(PostgresStore::open(StoreOptions::from_url(&server.url(name))?).await?)
}

async fn connect(server: &Postgres, database: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(&server.url(database), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

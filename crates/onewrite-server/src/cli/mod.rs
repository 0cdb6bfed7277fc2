//! The verbs.

mod config;
mod dead_letter;
mod explain;
mod flow;
mod gap;
mod guard;
mod relay;
mod sink;
mod store;
mod why;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use onewrite::{
    Code, Error, Result,
    sqlite::{Copied, SqliteStore},
};

use crate::{backends, config::Config, demo};

/// Write to one, derive the rest: consistent data across services.
#[derive(Debug, Parser)]
#[command(name = "onewrite", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a shop of four services, kill its processes, and show that nothing is lost or doubled.
    Demo(demo::DemoArgs),
    /// One process of the demo.
    #[command(hide = true)]
    DemoService(demo::service::ServiceArgs),
    /// Deliver a store's events to its sinks.
    Relay(relay::RelayArgs),
    /// List, show, retry or discard parked keys.
    #[command(subcommand)]
    DeadLetter(dead_letter::DeadLetter),
    /// Make the database refuse changes of a table without an event.
    #[command(subcommand)]
    Guard(guard::Guard),
    /// Tell the whole story of a correlation id, or draw which event causes which.
    Flow(flow::FlowArgs),
    /// Say where an event or key is, who owns it, what it waits for and when it is tried next.
    Why(why::WhyArgs),
    /// List what receivers wait for in vain, or go on without it.
    #[command(subcommand)]
    Gap(gap::Gap),
    /// List sinks, or let a suspended one go on.
    #[command(subcommand)]
    Sink(sink::Sink),
    /// Create a store, look at it, or say what a copied file is.
    #[command(subcommand)]
    Store(store::StoreVerb),
    /// Show the configuration in force.
    Config(config::ConfigArgs),
    /// Explain an error code.
    Explain(explain::ExplainArgs),
}

impl Cli {
    pub(crate) async fn run(self) -> Result<ExitCode> {
        match self.verb {
            Verb::Demo(args) => return demo::run(args).await,
            Verb::DemoService(args) => demo::service::run(args).await?,
            Verb::Relay(args) => relay::run(args).await?,
            Verb::DeadLetter(verb) => dead_letter::run(verb).await?,
            Verb::Guard(verb) => guard::run(verb).await?,
            Verb::Flow(args) => flow::run(args).await?,
            Verb::Why(args) => why::run(args).await?,
            Verb::Gap(verb) => gap::run(verb).await?,
            Verb::Sink(verb) => sink::run(verb).await?,
            Verb::Store(verb) => store::run(verb).await?,
            Verb::Config(args) => config::run(&args)?,
            Verb::Explain(args) => explain::run(&args)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Which stores a verb works on: one by URL, or those of the configuration.
#[derive(Debug, Clone, Args)]
pub(crate) struct Stores {
    /// The store's URL, for example sqlite:shop.db.
    #[arg(long, env = "ONEWRITE_STORE")]
    store: Vec<String>,
    /// The configuration file; onewrite.toml in this folder by default.
    #[arg(long, env = "ONEWRITE_CONFIG")]
    config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Stores {
    /// Opens every store named, without creating any.
    fn open(&self) -> Result<Vec<SqliteStore>> {
        let urls: Vec<String> = if self.store.is_empty() {
            Config::load(self.config.as_deref())?
                .service
                .into_iter()
                .map(|service| service.store)
                .collect()
        } else {
            self.store.clone()
        };
        if urls.is_empty() {
            return Err(Error::new(
                Code::InvalidConfig,
                "no store is named: give --store URL, or a configuration with services",
            ));
        }
        urls.iter().map(|url| backends::open_store(url, false, Copied::Refuse)).collect()
    }

    /// Opens the one store named.
    fn open_one(&self) -> Result<SqliteStore> {
        let mut stores = self.open()?;
        match (stores.pop(), stores.is_empty()) {
            (Some(store), true) => Ok(store),
            _ => Err(Error::new(
                Code::InvalidConfig,
                "this verb works on one store: name it with --store URL",
            )),
        }
    }
}

//! The verbs.

mod config;
mod dead_letter;
mod doctor;
mod explain;
mod flow;
mod gap;
mod guard;
mod participant;
mod reader;
mod relay;
pub(crate) mod saga;
mod sink;
mod store;
mod why;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use clap::{Args, Parser, Subcommand};
use onewrite::{
    Code, Error, Result, Store, Text,
    saga::check_text,
    store::{Batch, Copied, Durability, Item, Op, Outcome},
};

use crate::{backends, config::Config, demo, report, serve};

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
    /// One process of the demo that runs sagas.
    #[command(hide = true)]
    DemoNode(demo::node::NodeArgs),
    /// Deliver a store's events to its sinks.
    Relay(relay::RelayArgs),
    /// Coordinate sagas of services in any language, over HTTP.
    Serve(serve::ServeArgs),
    /// Check and draw definitions of sagas; start, list, show and steer sagas.
    #[command(subcommand)]
    Saga(saga::SagaVerb),
    /// Hold a participant of sagas that is down, and release it.
    #[command(subcommand)]
    Participant(participant::ParticipantVerb),
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
    /// Say which settings of databases and brokers weaken a promise.
    Doctor(doctor::DoctorArgs),
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
            Verb::DemoNode(args) => demo::node::run(args).await?,
            Verb::Relay(args) => relay::run(args).await?,
            Verb::Serve(args) => serve::run(args).await?,
            Verb::Saga(verb) => return saga::run(verb).await,
            Verb::Participant(verb) => participant::run(verb).await?,
            Verb::DeadLetter(verb) => dead_letter::run(verb).await?,
            Verb::Guard(verb) => guard::run(verb).await?,
            Verb::Flow(args) => flow::run(args).await?,
            Verb::Why(args) => why::run(args).await?,
            Verb::Gap(verb) => gap::run(verb).await?,
            Verb::Sink(verb) => sink::run(verb).await?,
            Verb::Store(verb) => store::run(verb).await?,
            Verb::Doctor(args) => return doctor::run(args).await,
            Verb::Config(args) => config::run(&args)?,
            Verb::Explain(args) => explain::run(&args)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What to do where a verb does not know its store.
pub(crate) const NAME_A_STORE: &str = "Name it with `--store URL` or in ONEWRITE_STORE, or name a configuration with services in `--config FILE`.";

/// What to do where an event is not known.
const UNKNOWN_EVENT: &str = "Check the spelling and the store that was asked; delivered events are kept only for the history's retention.";

/// What this process is known as where leases are held: unique for its life.
pub(crate) fn owner() -> String {
    let host = std::fs::read_to_string("/etc/hostname");
    let host = host.map_or_else(|_| "host".to_owned(), |name| name.trim().to_owned());
    format!("{host}-{}-{}", std::process::id(), uuid::Uuid::new_v4().simple())
}

/// Which stores a verb works on: one by URL, or those of the configuration.
#[derive(Debug, Clone, Args)]
pub(crate) struct Stores {
    /// The store's URL, for example sqlite:shop.db; ONEWRITE_STORE by default, unless --config names a
    /// file.
    #[arg(long)]
    store: Vec<String>,
    /// The configuration file; ONEWRITE_CONFIG, or onewrite.toml in this folder by default.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Stores {
    /// The stores named by URL. A file that was named by hand stands over the environment.
    fn named(&self) -> Vec<String> {
        if !self.store.is_empty() || self.config.is_some() {
            return self.store.clone();
        }
        std::env::var("ONEWRITE_STORE").ok().filter(|url| !url.is_empty()).into_iter().collect()
    }

    /// The configuration in force.
    fn configuration(&self) -> Result<Config> {
        let path = self.config.clone().or_else(|| {
            std::env::var_os("ONEWRITE_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from)
        });
        Config::load(path.as_deref())
    }

    /// The URLs of every store named.
    fn urls(&self) -> Result<Vec<String>> {
        let named = self.named();
        if !named.is_empty() {
            return Ok(named);
        }
        let services = self.configuration()?.service;
        Ok(services.into_iter().map(|service| service.store).collect())
    }

    /// Opens every store named, without creating any.
    async fn open(&self) -> Result<Vec<Arc<dyn Store>>> {
        let urls = self.urls()?;
        if urls.is_empty() {
            return Err(Error::new(
                Code::InvalidConfig,
                "no store is named: give --store URL, or a configuration with services",
            )
            .with_cure(NAME_A_STORE));
        }
        let mut stores = Vec::new();
        for url in &urls {
            stores.push(backends::open_store(url, false, Copied::Refuse).await?);
        }
        Ok(stores)
    }

    /// Opens the one store named.
    async fn open_one(&self) -> Result<Arc<dyn Store>> {
        let mut stores = self.open().await?;
        match (stores.pop(), stores.is_empty()) {
            (Some(store), true) => Ok(store),
            _ => Err(Error::new(
                Code::InvalidConfig,
                "this verb works on one store: name it with --store URL",
            )
            .with_cure(NAME_A_STORE)),
        }
    }
}

/// Who decides something, and why.
#[derive(Debug, Args)]
pub(crate) struct Why {
    /// Why: it is kept beside what is decided.
    #[arg(long)]
    reason: String,
    /// Who wants it.
    #[arg(long, env = "USER", default_value = "operator")]
    actor: String,
}

impl Why {
    /// The actor and the reason, as every store can keep them.
    fn read(&self) -> Result<(Text, Text)> {
        for (what, text) in [("reason", &self.reason), ("actor", &self.actor)] {
            check_text(text)
                .map_err(|why| Error::new(Code::InvalidInput, format!("the {what} {why}")))?;
        }
        Ok((self.actor.clone().into(), self.reason.clone().into()))
    }
}

/// Carries out one operation; returns how many rows it touched.
async fn carry_out(store: &dyn Store, op: Op) -> Result<u64> {
    let items = vec![Item { fence: None, ops: vec![op] }];
    let batch = Batch { durability: Durability::Durable, items };
    match store.commit(batch).await?.pop() {
        Some(Outcome::Applied(count)) => Ok(count),
        Some(Outcome::Failed(error)) => Err(error),
        Some(Outcome::Fenced) | None => {
            Err(Error::new(Code::InvariantBroken, "an operation without a fence was not answered"))
        }
    }
}

/// Prints what was done.
fn done(said: &str, json: bool) {
    if json {
        report::json(&serde_json::json!({ "done": said }));
    } else {
        report::say!("{}", report::plain(said));
    }
}

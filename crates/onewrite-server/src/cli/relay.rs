//! `onewrite relay`: delivery as a process of its own.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use clap::Args;
use onewrite::{
    Budget, Code, Error, Relay, RelayOptions, Result, Retention, Shutdown, StartFrom, Sweeper,
    retry::Backoff,
    sqlite::{Copied, SqliteStore},
};

use super::Stores;
use crate::{
    backends::{self, SinkTarget},
    config::{Config, RelayConfig, SinkConfig},
    http,
};

#[derive(Debug, Args)]
pub(crate) struct RelayArgs {
    #[command(flatten)]
    stores: Stores,
    /// Where to deliver, when it is not in the configuration: http://…, stdout:, null:, memory:NAME.
    #[arg(long, requires = "store", env = "ONEWRITE_SINK")]
    sink: Vec<String>,
    /// The sink's name, which names its cursors; derived from its URL by default.
    #[arg(long, requires = "sink")]
    name: Option<String>,
    /// Only these event types, separated by commas.
    #[arg(long, value_delimiter = ',', requires = "sink")]
    types: Vec<String>,
    /// Let a new sink start with the next event instead of the oldest in the log.
    #[arg(long)]
    from_now: bool,
    /// Allow targets in private and loopback address ranges.
    #[arg(long)]
    allow_private: bool,
    /// Send one event a request, for webhooks that know no batches.
    #[arg(long)]
    single: bool,
    /// The environment variables that hold Standard Webhooks secrets, separated by commas.
    #[arg(long, value_delimiter = ',')]
    secrets_env: Vec<String>,
    /// Only this service of the configuration.
    #[arg(long)]
    service: Option<String>,
    /// Where to serve /metrics, /healthz and /readyz; loopback only.
    #[arg(long)]
    listen: Option<SocketAddr>,
}

pub(crate) async fn run(args: RelayArgs) -> Result<()> {
    let shutdown = Shutdown::on_signals()
        .map_err(|error| Error::new(Code::Stopped, "listen for signals").with_source(error))?;
    let config = Config::load(args.stores.config.as_deref())?;
    let work =
        if args.stores.store.is_empty() { configured(&args, &config)? } else { named(&args)? };
    let metrics =
        http::serve(args.listen, work.iter().map(|(store, _)| store.clone()).collect(), &shutdown)
            .await?;
    // All sinks are opened before the first event moves: a wrong one stops nothing half-way.
    let mut relays = Vec::new();
    let mut sweepers = Vec::new();
    let owner = format!("{}-{}-{}", host(), std::process::id(), uuid::Uuid::new_v4().simple());
    for (store, sinks) in work {
        let store = Arc::new(store);
        for sink in sinks {
            let target = SinkTarget {
                urls: sink.urls.clone(),
                allow_private: sink.allow_private || args.allow_private,
                secrets: secrets(&sink.secrets_env)?,
                single: args.single,
                timeout: None,
            };
            let options = options(&config.relay, &sink, args.from_now);
            let opened = backends::open_sink(&target)?;
            let relay = Relay::new(store.clone(), opened, options, owner.clone());
            // Retention waits for every sink it knows: each is known before the first sweep.
            relay.subscribe().await?;
            eprintln!(
                "relaying {} to {} as `{}`",
                store.options().path.display(),
                shown(&sink.urls),
                sink.name
            );
            relays.push(relay);
        }
        let retention = Retention {
            log: Duration::from_secs(config.retention.log_s),
            history: Duration::from_secs(config.retention.history_s),
            ..Retention::default()
        };
        sweepers.push(Sweeper::new(store, retention));
    }
    let mut tasks = tokio::task::JoinSet::new();
    for relay in relays {
        tasks.spawn(relay.run(shutdown.clone()));
    }
    for sweeper in sweepers {
        tasks.spawn(sweeper.run(shutdown.clone()));
    }
    tasks.join_all().await;
    if let Some(metrics) = metrics {
        metrics.abort();
    }
    eprintln!("drained: what was in flight is settled, leases are given back");
    Ok(())
}

type Work = Vec<(SqliteStore, Vec<SinkConfig>)>;

fn named(args: &RelayArgs) -> Result<Work> {
    if args.sink.is_empty() {
        return Err(Error::new(
            Code::InvalidConfig,
            "no sink is named: give --sink URL, or a configuration with sinks",
        ));
    }
    let name = args.name.clone().unwrap_or_else(|| derived_name(&args.sink));
    let sink = SinkConfig {
        name,
        urls: args.sink.clone(),
        types: args.types.clone(),
        allow_private: args.allow_private,
        secrets_env: args.secrets_env.clone(),
    };
    Ok(vec![(args.stores.open_one()?, vec![sink])])
}

/// The first URL without what is secret in it.
fn derived_name(urls: &[String]) -> String {
    let url = urls.first().map_or("", String::as_str);
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    match plain.split_once("://") {
        Some((_, rest)) => {
            rest.rsplit_once('@').map_or(rest, |(_, host)| host).trim_end_matches('/').to_owned()
        }
        None => plain.trim_end_matches(':').to_owned(),
    }
}

fn configured(args: &RelayArgs, config: &Config) -> Result<Work> {
    let wanted: Vec<_> = config
        .service
        .iter()
        .filter(|service| args.service.as_ref().is_none_or(|name| *name == service.name))
        .collect();
    if let (Some(name), true) = (&args.service, wanted.is_empty()) {
        return Err(Error::new(
            Code::InvalidConfig,
            format!("the configuration names no service `{}`", name.escape_debug()),
        ));
    }
    if wanted.iter().all(|service| service.sink.is_empty()) {
        return Err(Error::new(
            Code::InvalidConfig,
            "there is nothing to relay: give --store and --sink, or a configuration with services and sinks",
        ));
    }
    wanted
        .into_iter()
        .filter(|service| !service.sink.is_empty())
        .map(|service| {
            Ok((backends::open_store(&service.store, false, Copied::Refuse)?, service.sink.clone()))
        })
        .collect()
}

fn options(config: &RelayConfig, sink: &SinkConfig, from_now: bool) -> RelayOptions {
    RelayOptions {
        kinds: sink.types.iter().map(|kind| kind.clone().into()).collect(),
        from: if from_now { StartFrom::Now } else { StartFrom::Beginning },
        batch_max: config.batch_max,
        batch_bytes_max: config.batch_bytes_max,
        lease_ttl: Duration::from_millis(config.lease_ms),
        poll: Duration::from_millis(config.poll_ms),
        attempts_max: config.attempts_max,
        backoff: Backoff {
            initial: Duration::from_millis(config.backoff_initial_ms),
            cap: Duration::from_millis(config.backoff_cap_ms),
        },
        budget: Budget {
            age: Duration::from_secs(config.budget_age_s),
            bytes: config.budget_bytes,
        },
        ..RelayOptions::new(sink.name.clone())
    }
}

fn secrets(variables: &[String]) -> Result<Vec<String>> {
    let read = |name: &String| {
        std::env::var(name).map_err(|_| {
            Error::new(
                Code::InvalidConfig,
                format!("the environment variable {name} with a webhook secret is not set"),
            )
        })
    };
    variables.iter().map(read).collect()
}

/// Addresses without what is secret in them.
fn shown(urls: &[String]) -> String {
    urls.iter().map(|url| derived_name(std::slice::from_ref(url))).collect::<Vec<_>>().join(", ")
}

fn host() -> String {
    std::fs::read_to_string("/etc/hostname")
        .map_or_else(|_| "host".to_owned(), |name| name.trim().to_owned())
}

//! `onewrite relay`: delivery as a process of its own.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use clap::Args;
use onewrite::{
    Budget, Code, Error, Relay, RelayOptions, Result, Retention, Shutdown, StartFrom, Store,
    Sweeper, Text, Timestamp, retry::Backoff, store::Copied,
};

use super::{Stores, reader::Reader};
use crate::{
    backends::{self, SinkTarget, shown},
    config::{self, Config, RelayConfig, SinkConfig},
    http, report,
};

#[derive(Debug, Args)]
pub(crate) struct RelayArgs {
    #[command(flatten)]
    stores: Stores,
    /// Where to deliver, when it is not in the configuration: http://…, nats://HOST/STREAM, stdout:,
    /// null:, memory:NAME.
    #[arg(long, env = "ONEWRITE_SINK", hide_env_values = true)]
    sink: Vec<String>,
    /// The sink's name, which names its cursors; derived from its URL by default.
    #[arg(long, requires = "sink")]
    name: Option<String>,
    /// Only these event types, separated by commas.
    #[arg(long, value_delimiter = ',', requires = "sink", value_parser = event_type)]
    types: Vec<String>,
    /// Where a new sink starts: at the beginning of the log, with the next event (now), or with the first
    /// one placed at this time or later (RFC 3339: 2026-11-20T08:00:00Z).
    #[arg(long, default_value = "beginning", value_name = "beginning|now|TIME", value_parser = start)]
    from: StartFrom,
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

fn event_type(text: &str) -> std::result::Result<String, String> {
    config::check_type(text).map(|()| text.to_owned())
}

fn start(text: &str) -> std::result::Result<StartFrom, String> {
    match text {
        "beginning" => Ok(StartFrom::Beginning),
        "now" => Ok(StartFrom::Now),
        time => Timestamp::parse(time).map(StartFrom::Time).ok_or_else(|| {
            "`beginning`, `now` or a time such as 2026-11-20T08:00:00Z is needed".into()
        }),
    }
}

pub(crate) async fn run(args: RelayArgs) -> Result<()> {
    let shutdown = Shutdown::on_signals()
        .map_err(|error| Error::new(Code::Stopped, "listen for signals").with_source(error))?;
    let config = args.stores.configuration()?;
    let work = match (args.stores.named().is_empty(), args.sink.is_empty()) {
        (false, _) => named(&args).await?,
        (true, true) => configured(&args, &config).await?,
        (true, false) => {
            return Err(Error::new(
                Code::InvalidConfig,
                "a sink is named and no store: give --store URL too",
            ));
        }
    };
    let stores = work.iter().map(|(store, _)| Arc::clone(store)).collect();
    let metrics = http::serve(args.listen, stores, &shutdown).await?;
    // All sinks are opened before the first event moves: a wrong one stops nothing half-way.
    let mut relays = Vec::new();
    let mut sweepers = Vec::new();
    let mut warned = BTreeSet::new();
    let reader = Reader::new(&shutdown);
    let owner = super::owner();
    for (store, sinks) in work {
        warn(store.warnings().await, &mut warned);
        for sink in sinks {
            let target = target(&sink, args.allow_private, args.single)?;
            let options = options(&config.relay, &sink, args.from);
            let mut opened = backends::open_sink(&target).await?;
            if sink.urls.iter().any(|url| backends::scheme(url) == "stdout") {
                opened = reader.of(opened);
            }
            warn(opened.warnings().await, &mut warned);
            let relay = Relay::new(Arc::clone(&store), opened, options, owner.clone());
            // Retention waits for every sink it knows: each is known before the first sweep.
            relay.subscribe().await?;
            let urls: Vec<String> = sink.urls.iter().map(|url| shown(url)).collect();
            let (source, urls) = (store.source().name, urls.join(", "));
            report::tell!("relaying {source} to {urls} as `{}`", sink.name);
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
    report::tell!("drained: what was in flight is settled, leases are given back");
    reader.check()
}

/// Says each warning once. What cannot be asked now is reached later, and does not keep a relay from
/// its other work.
fn warn(found: Result<Vec<Text>>, said: &mut BTreeSet<Text>) {
    match found {
        Ok(warnings) => {
            for warning in warnings {
                if said.insert(warning.clone()) {
                    report::tell!("warning: {warning}");
                }
            }
        }
        Err(error) => report::tell!("warning: the settings could not be looked at: {error}"),
    }
}

type Work = Vec<(Arc<dyn Store>, Vec<SinkConfig>)>;

async fn named(args: &RelayArgs) -> Result<Work> {
    let Some(first) = args.sink.first() else {
        return Err(Error::new(
            Code::InvalidConfig,
            "no sink is named: give --sink URL, or a configuration with sinks",
        ));
    };
    let sink = SinkConfig {
        name: args.name.clone().unwrap_or_else(|| backends::name_of(first)),
        urls: args.sink.clone(),
        types: args.types.clone(),
        allow_private: args.allow_private,
        secrets_env: args.secrets_env.clone(),
    };
    Ok(vec![(args.stores.open_one().await?, vec![sink])])
}

async fn configured(args: &RelayArgs, config: &Config) -> Result<Work> {
    let wanted: Vec<_> = config
        .service
        .iter()
        .filter(|service| args.service.as_ref().is_none_or(|name| *name == service.name))
        .collect();
    if let (Some(name), true) = (&args.service, wanted.is_empty()) {
        return Err(Error::new(
            Code::InvalidConfig,
            format!("the configuration names no service `{}`", name.escape_debug()),
        )
        .with_cure("Name one of the configuration: `onewrite config --effective` shows them."));
    }
    if wanted.iter().all(|service| service.sink.is_empty()) {
        return Err(Error::new(
            Code::InvalidConfig,
            "there is nothing to relay: give --store and --sink, or a configuration with services and sinks",
        ));
    }
    let mut work = Work::new();
    for service in wanted.into_iter().filter(|service| !service.sink.is_empty()) {
        let store = backends::open_store(&service.store, false, Copied::Refuse).await?;
        work.push((store, service.sink.clone()));
    }
    Ok(work)
}

/// How a configured sink is reached.
pub(super) fn target(sink: &SinkConfig, allow_private: bool, single: bool) -> Result<SinkTarget> {
    Ok(SinkTarget {
        urls: sink.urls.clone(),
        allow_private: sink.allow_private || allow_private,
        secrets: secrets(&sink.secrets_env)?,
        single,
        timeout: None,
    })
}

fn options(config: &RelayConfig, sink: &SinkConfig, from: StartFrom) -> RelayOptions {
    RelayOptions {
        kinds: sink.types.iter().map(|kind| kind.clone().into()).collect(),
        from,
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
            .with_cure(
                "Set it for this process, and as well for the receiver that checks the signatures.",
            )
        })
    };
    variables.iter().map(read).collect()
}

//! One process of the demo: a service of the shop, with or without a relay.

use std::{net::SocketAddr, time::Duration};

use clap::Args;
use onewrite::{Code, Error, Result, Retention, Shutdown};
use onewrite_shop::{Role, naive, service};
use onewrite_testkit::child::READY;

use crate::report;

/// Where a process of the demo finds its URLs.
pub(crate) const STORE: &str = "ONEWRITE_DEMO_STORE";
pub(crate) const RECEIVES: &str = "ONEWRITE_DEMO_RECEIVES";
pub(crate) const PEERS: &str = "ONEWRITE_DEMO_PEERS";
/// What no URL holds.
pub(crate) const BETWEEN_PEERS: &str = "\n";

#[derive(Debug, Clone, Args)]
pub(crate) struct ServiceArgs {
    #[arg(long, value_parser = role)]
    role: Role,
    /// The URL of its database.
    #[arg(long, env = STORE, hide_env_values = true)]
    store: String,
    /// `http`, or the URL of what it reads from a broker.
    #[arg(long, env = RECEIVES, hide_env_values = true, default_value = onewrite_shop::broker::HTTP)]
    receives: String,
    #[arg(long)]
    listen: SocketAddr,
    /// `ROLE=URL`, once for each address that takes events for a role.
    #[arg(long, env = PEERS, hide_env_values = true, value_delimiter = '\n')]
    peer: Vec<String>,
    #[arg(long)]
    relay: bool,
    /// Only relay: no API, no receiver.
    #[arg(long)]
    relay_only: bool,
    #[arg(long)]
    naive: bool,
    #[arg(long)]
    lease_ms: u64,
}

fn role(name: &str) -> std::result::Result<Role, String> {
    Role::parse(name).ok_or_else(|| format!("there is no service `{name}`"))
}

/// Runs it. Several processes share one standard error: each says who it is.
pub(crate) async fn run(args: ServiceArgs) -> Result<()> {
    let role = args.role.name();
    serve(args).await.map_err(|error| error.within(&format!("the {role} service")))
}

async fn serve(args: ServiceArgs) -> Result<()> {
    let shutdown = Shutdown::on_signals()
        .map_err(|error| Error::new(Code::Stopped, "listen for signals").with_source(error))?;
    let peers = Role::ALL
        .into_iter()
        .map(|role| {
            let prefix = format!("{}=", role.name());
            (
                role,
                args.peer
                    .iter()
                    .filter_map(|peer| peer.strip_prefix(&prefix).map(str::to_owned))
                    .collect(),
            )
        })
        .collect();
    let options = service::ServiceOptions {
        role: args.role,
        store: args.store,
        receives: args.receives,
        listen: args.listen,
        peers,
        relay: args.relay,
        lease_ttl: Duration::from_millis(args.lease_ms),
        retention: Retention::default(),
    };
    if args.relay_only {
        let database = service::open(options.role, &options.store, !args.naive).await?;
        let mut relays = tokio::task::JoinSet::new();
        for relay in service::relays(&*database, &options).await? {
            relays.spawn(relay.run(shutdown.clone()));
        }
        report::say!("{READY}");
        relays.join_all().await;
        return Ok(());
    }
    let ready = || report::say!("{READY}");
    if args.naive {
        naive::run(options, ready, shutdown).await
    } else {
        service::run(options, ready, shutdown).await
    }
}

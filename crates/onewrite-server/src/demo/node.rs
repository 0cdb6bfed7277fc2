//! One process of the demo that takes orders and runs their sagas.

use std::{net::SocketAddr, time::Duration};

use clap::Args;
use onewrite::{Code, Error, Result, Shutdown};
use onewrite_shop::{Role, saga::node};
use onewrite_testkit::child::READY;

use crate::report;

/// Where it finds the URLs of the services' databases.
pub(crate) const STORES: &str = "ONEWRITE_DEMO_STORES";

#[derive(Debug, Clone, Args)]
pub(crate) struct NodeArgs {
    #[arg(long)]
    listen: SocketAddr,
    /// `ROLE=URL`, once for each service.
    #[arg(long, env = STORES, hide_env_values = true, value_delimiter = '\n', value_parser = store)]
    store: Vec<(Role, String)>,
    #[arg(long)]
    lease_ms: u64,
    #[arg(long)]
    without_barrier: bool,
}

fn store(text: &str) -> std::result::Result<(Role, String), String> {
    let store = text.split_once('=').and_then(|(role, url)| Some((Role::parse(role)?, url.into())));
    store.ok_or_else(|| "`ROLE=URL` is needed".into())
}

/// Runs it. Several processes share one standard error: each says who it is.
pub(crate) async fn run(args: NodeArgs) -> Result<()> {
    let who = format!("the node at {}", args.listen);
    serve(args).await.map_err(|error| error.within(&who))
}

async fn serve(args: NodeArgs) -> Result<()> {
    let shutdown = Shutdown::on_signals()
        .map_err(|error| Error::new(Code::Stopped, "listen for signals").with_source(error))?;
    let options = node::NodeOptions {
        stores: args.store,
        listen: args.listen,
        lease_ttl: Duration::from_millis(args.lease_ms),
        keeps_barrier: !args.without_barrier,
    };
    node::run(options, || report::say!("{READY}"), shutdown).await
}

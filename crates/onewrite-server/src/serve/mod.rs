//! `onewrite serve`: coordinates sagas of services in any language.

mod access;
mod participants;
mod problem;
mod routes;
mod view;

use std::{net::SocketAddr, sync::Arc};

use clap::Args;
use onewrite::{
    Code, Error, Result, Shutdown,
    saga::{SagaOptions, SagaRunner},
    store::Copied,
};
use tokio::net::TcpListener;

use self::{access::Access, participants::Services, routes::Api};
use crate::{backends, cli, http, report};

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The store that the sagas are kept in, for example sqlite:sagas.db; it is created where it is missing.
    #[arg(long, env = "ONEWRITE_STORE", hide_env_values = true)]
    store: String,
    /// Where to listen. Beyond loopback tokens are needed.
    #[arg(long, default_value = "127.0.0.1:8480")]
    listen: SocketAddr,
    /// A service that carries out steps: an action `bank` is asked at its URL, `bank.charge` at URL/charge.
    /// May be given several times.
    #[arg(long, value_name = "NAME=URL")]
    participant: Vec<String>,
    /// Allow participants in private and loopback address ranges.
    #[arg(long)]
    allow_private: bool,
    /// Who may do what: a name, a role (reader, starter or operator), and the environment variable that holds the
    /// bearer token. May be given several times; without one, everybody may do everything.
    #[arg(long, value_name = "NAME:ROLE=VARIABLE")]
    token: Vec<String>,
}

pub(crate) async fn run(args: ServeArgs) -> Result<()> {
    let shutdown = Shutdown::on_signals()
        .map_err(|error| Error::new(Code::Stopped, "listen for signals").with_source(error))?;
    let access = Access::new(&args.token)?;
    if access.is_open() && !args.listen.ip().is_loopback() {
        let what = format!("{} is not a loopback address, and there are no tokens", args.listen);
        return Err(Error::new(Code::CannotListen, what));
    }
    let services = Arc::new(Services::new(&args.participant, args.allow_private)?);
    let store = backends::open_journal(&args.store, true, Copied::Refuse).await?;
    let runner = SagaRunner::new(Arc::clone(&store), SagaOptions::default(), cli::owner());
    let finder = Arc::clone(&services);
    let runner = runner.participants(move |name| finder.find(name));
    let api = Api { sagas: runner.sagas(), store: Arc::clone(&store), services, access };
    let health = http::routes(vec![store], &shutdown)?;
    let (listener, address) = http::listen(args.listen).await?;
    report::tell!("serving sagas at http://{address}");
    let running = tokio::spawn(runner.run(shutdown.clone()));
    let served = serve(listener, routes::routes(api).merge(health), shutdown.clone()).await;
    // Whatever ended it: what is in flight is waited for.
    shutdown.begin();
    running.await.map_err(|error| {
        Error::new(Code::Stopped, "the runner of sagas ended unexpectedly").with_source(error)
    })?;
    report::tell!("drained: attempts in flight have ended, and the sagas are handed back");
    served
}

/// Answers requests until the shutdown; those that were begun are answered.
async fn serve(listener: TcpListener, routes: axum::Router, shutdown: Shutdown) -> Result<()> {
    let end = async move { shutdown.begun().await };
    let served = axum::serve(listener, routes).with_graceful_shutdown(end).await;
    served.map_err(|error| Error::new(Code::Stopped, "answer requests").with_source(error))
}

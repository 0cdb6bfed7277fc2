//! `onewrite serve`: coordinates sagas of services in any language.

mod access;
mod participants;
mod problem;
mod routes;
mod view;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use clap::Args;
use onewrite::{
    Code, Error, Result, Shutdown,
    saga::{SagaOptions, SagaRunner},
    store::Copied,
};
use tokio::{net::TcpListener, sync::Semaphore};

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
    /// Allow the participants named here to be in private and loopback address ranges.
    #[arg(long)]
    allow_private: bool,
    /// Allow the URLs of definitions to lead into private and loopback address ranges: whoever may start a saga can
    /// reach there what this process can.
    #[arg(long)]
    allow_private_urls: bool,
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
    let services =
        Arc::new(Services::new(&args.participant, args.allow_private, args.allow_private_urls)?);
    let options = SagaOptions::default();
    let store = backends::open_journal(&args.store, true, Copied::Refuse).await?;
    let runner = SagaRunner::new(Arc::clone(&store), options.clone(), cli::owner());
    let finder = Arc::clone(&services);
    let runner = runner.participants(move |name| finder.find(name));
    let starts = Arc::new(Semaphore::new(routes::STARTS_MAX));
    let (sagas, journal) = (runner.sagas(), Arc::clone(&store));
    let api = Arc::new(Api { sagas, store: journal, services, access, starts });
    let health = http::routes(vec![store], &shutdown)?;
    let guard = axum::middleware::from_fn_with_state(Arc::clone(&api), routes::guard);
    let routes = routes::routes(api).merge(health).layer(guard);
    let (listener, address) = http::listen(args.listen).await?;
    report::tell!("serving sagas at http://{address}");
    let mut running = tokio::spawn(runner.run(shutdown.clone()));
    let ended = tokio::select! {
        served = serve(listener, routes, &shutdown, options.lease_ttl) => {
            // Whatever ended it: what is in flight is waited for.
            shutdown.begin();
            let ended = running.await;
            served?;
            ended
        }
        ended = &mut running => ended,
    };
    ended.map_err(|error| {
        Error::new(Code::Stopped, "the runner of sagas ended unexpectedly").with_source(error)
    })?;
    report::tell!("drained: the sagas are handed back");
    Ok(())
}

/// Answers requests until the shutdown; those that were begun are answered, for as long as attempts in flight are
/// waited for as well.
async fn serve(
    listener: TcpListener,
    routes: axum::Router,
    shutdown: &Shutdown,
    patience: Duration,
) -> Result<()> {
    let ends = shutdown.clone();
    let serving =
        axum::serve(listener, routes).with_graceful_shutdown(async move { ends.begun().await });
    let late = async {
        shutdown.begun().await;
        tokio::time::sleep(patience).await;
    };
    tokio::select! {
        served = serving => {
            served.map_err(|error| Error::new(Code::Stopped, "answer requests").with_source(error))
        }
        () = late => Ok(()),
    }
}

//! `onewrite serve`: coordinates sagas of services in any language.

mod access;
mod archive;
mod definitions;
mod door;
mod dtm;
mod end;
mod handshakes;
pub(crate) mod participants;
mod problem;
mod routes;
mod steer;
mod stopping;
mod tls;
mod which;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::Args;
use onewrite::{
    Code, Error, Result, Shutdown,
    saga::{Archive, SagaOptions, SagaRunner},
    store::Copied,
};
use tokio::sync::Semaphore;

use self::{
    access::Access,
    definitions::Definitions,
    participants::{ParticipantArgs, Services},
    routes::Api,
    stopping::Signals,
};
use crate::{backends, cli, http, report};

/// What a lease may hold for: shorter, and a pause of the machine loses it; longer, and sagas wait for the dead.
const LEASE_MIN: Duration = Duration::from_millis(500);
const LEASE_MAX: Duration = Duration::from_secs(600);
/// What ended sagas are kept for at least: as long as an answer may wait for the end of one, and whoever was not
/// answered repeats the start of one. Once it is deleted, that starts it anew.
const RETENTION_MIN: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The store that the sagas are kept in, for example sqlite:sagas.db; it is created where it is missing.
    #[arg(long, env = "ONEWRITE_STORE", hide_env_values = true)]
    store: String,
    /// Where to listen. Beyond loopback tokens are needed.
    #[arg(long, default_value = "127.0.0.1:8480")]
    listen: SocketAddr,
    #[command(flatten)]
    participants: ParticipantArgs,
    /// A file with a definition, YAML or JSON, or a folder of such: sagas are started by its name. May be given
    /// several times.
    #[arg(long, value_name = "PATH")]
    definitions: Vec<PathBuf>,
    /// Who may do what: a name, a role (reader, starter, participant or operator), the environment variable that
    /// holds the bearer token, and until when it counts. May be given several times; without one, everybody may do
    /// everything.
    #[arg(long, value_name = "NAME:ROLE=VARIABLE[@TIME]")]
    token: Vec<String>,
    /// Answer the clients of dtm at /api/dtmsvr: sagas and two-phase messages.
    #[arg(long)]
    dtm: bool,
    /// Where participants reach this server, to say that a step can be looked at.
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// A chain of certificates in PEM: requests are taken over TLS alone.
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its private key in PEM.
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Certificates in PEM: only clients that show one which these have signed are let in.
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// How long a lease holds without renewal: sagas of a server that died wait for a third more at most.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    lease: Duration,
    /// How long ended sagas are kept, for example 12h or 30d, or `forever`.
    #[arg(long, default_value = "30d", value_parser = retention)]
    retention: Retention,
    /// A folder where ended sagas are kept, as lines of JSON, before they are deleted.
    #[arg(long, value_name = "FOLDER")]
    archive: Option<PathBuf>,
}

/// How long ended sagas are kept; none for ever.
#[derive(Debug, Clone, Copy)]
struct Retention(Option<Duration>);

fn retention(text: &str) -> Result<Retention, String> {
    if text == "forever" {
        return Ok(Retention(None));
    }
    let time = humantime::parse_duration(text);
    time.map(|time| Retention(Some(time))).map_err(|error| format!("{error}, or `forever`"))
}

impl ServeArgs {
    fn tls(&self) -> Result<Option<Arc<rustls::ServerConfig>>> {
        let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) else { return Ok(None) };
        let client_ca = self.client_ca.as_deref();
        tls::config(tls::TlsFiles { cert, key, client_ca }).map(Some)
    }

    fn options(&self, owner: &str) -> Result<SagaOptions> {
        if self.archive.is_some() && self.retention.0.is_none() {
            let what = "--archive keeps what is deleted, and with --retention forever nothing is";
            return Err(Error::new(Code::InvalidConfig, what));
        }
        if self.retention.0.is_some_and(|time| time < RETENTION_MIN) {
            let what = "--retention is at least 1min, or `forever`: once a saga is deleted, who repeats its start for want of an answer starts it anew";
            return Err(Error::new(Code::InvalidConfig, what));
        }
        let archive = self.archive.as_deref().map(|folder| archive::Files::new(folder, owner));
        let archive = archive.transpose()?.map(|files| Arc::new(files) as Arc<dyn Archive>);
        if !(LEASE_MIN..=LEASE_MAX).contains(&self.lease) {
            let what = "--lease is between 500ms and 10min";
            return Err(Error::new(Code::InvalidConfig, what));
        }
        let (retention, lease_ttl) = (self.retention.0, self.lease);
        Ok(SagaOptions { retention, archive, lease_ttl, ..SagaOptions::default() })
    }
}

pub(crate) async fn run(args: ServeArgs) -> Result<()> {
    let shutdown = Shutdown::on_signals()
        .map_err(|error| Error::new(Code::Stopped, "listen for signals").with_source(error))?;
    let signals = Signals::listen()?;
    let access = Access::new(&args.token)?;
    access.check_expired(SystemTime::now())?;
    if access.is_open() && !args.listen.ip().is_loopback() {
        let what = format!("{} is not a loopback address, and there are no tokens", args.listen);
        return Err(Error::new(Code::CannotListen, what));
    }
    let (owner, tls) = (cli::owner(), args.tls()?);
    let options = args.options(&owner)?;
    let services = Arc::new(Services::new(&args.participants, args.public_url.as_deref())?);
    let definitions = Definitions::read(&args.definitions, &services)?;
    let store = backends::open_journal(&args.store, true, Copied::Refuse).await?;
    let (patience, known) = (options.lease_ttl, definitions.len());
    let finder = Arc::clone(&services);
    let runner = SagaRunner::new(Arc::clone(&store), options, owner);
    let runner = runner.participants(move |name| finder.find(name));
    let api = Arc::new(Api {
        sagas: runner.sagas(),
        store: Arc::clone(&store),
        services,
        access,
        definitions,
        starts: Arc::new(Semaphore::new(routes::STARTS_MAX)),
        requests: Semaphore::new(routes::REQUESTS_MAX),
        shutdown: shutdown.clone(),
    });
    let health = http::routes(vec![store], Some(api.sagas.clone()), &shutdown)?;
    let guard = axum::middleware::from_fn_with_state(Arc::clone(&api), routes::guard);
    let doors = match args.dtm {
        true => routes::routes(Arc::clone(&api)).merge(dtm::routes(api)),
        false => routes::routes(api),
    };
    let limit = axum::extract::DefaultBodyLimit::max(routes::BODY_MAX);
    let routes = doors.merge(health).layer(limit).layer(guard);
    let (listener, address) = http::listen(args.listen).await?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    if known > 0 {
        report::tell!("definitions read: {known}");
    }
    report::tell!("serving sagas at {scheme}://{address}");
    tokio::spawn(signals.heed(shutdown.clone()));
    let running = tokio::spawn(runner.run(shutdown.clone()));
    let serving = door::serve(listener, tls, routes, &shutdown, patience);
    // Whichever ends first: what is in flight is waited for in both.
    let says = async {
        shutdown.begun().await;
        report::tell!(
            "stopping: what is in flight has up to {patience:?} to end; a second signal, after a moment, ends it now"
        );
    };
    let ((), (), ended) = tokio::join!(says, serving, async {
        let ended = running.await;
        shutdown.begin();
        ended
    });
    ended.map_err(|error| {
        Error::new(Code::Stopped, "the runner of sagas ended unexpectedly").with_source(error)
    })?;
    report::tell!("stopped");
    Ok(())
}

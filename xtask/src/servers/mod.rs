//! The servers that tests and programs of this repository need: private ones, gone afterwards.

mod install;

use std::{
    process,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use onewrite_testservers::{NATS_ENV, Nats, POSTGRES_ENV, Postgres};
use tokio::{
    runtime::{self, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};

pub(crate) use self::install::install_missing;

/// A server by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Server {
    /// PostgreSQL.
    Postgres,
    /// NATS with JetStream.
    Nats,
}

/// What the tests need.
pub(crate) const ALL: &[Server] = &[Server::Postgres, Server::Nats];

impl Server {
    /// Debian's package.
    fn package(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql",
            Self::Nats => "nats-server",
        }
    }

    fn is_installed(self) -> bool {
        match self {
            Self::Postgres => Postgres::is_installed(),
            Self::Nats => Nats::is_installed(),
        }
    }
}

/// Running servers: none or one of each kind. They are stopped when this is dropped.
#[derive(Debug)]
pub(crate) struct Servers {
    pub(crate) postgres: Option<Postgres>,
    pub(crate) nats: Option<Nats>,
}

impl Servers {
    /// Starts those that are `wanted`.
    pub(crate) async fn start(wanted: &[Server]) -> Result<Self> {
        let mut servers = Self { postgres: None, nats: None };
        if wanted.contains(&Server::Postgres) {
            servers.postgres = Some(Postgres::start().await.context("PostgreSQL")?);
        }
        if wanted.contains(&Server::Nats) {
            servers.nats = Some(Nats::start().await.context("NATS")?);
        }
        Ok(servers)
    }

    /// The variables that name them to tests.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        let postgres =
            self.postgres.as_ref().map(|server| (POSTGRES_ENV, server.address().server_url()));
        let nats = self.nats.as_ref().map(|server| (NATS_ENV, server.url()));
        postgres.into_iter().chain(nats).collect()
    }
}

/// What waits for servers and signals.
pub(crate) fn runtime() -> Result<Runtime> {
    let mut builder = runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().context("cannot start the runtime")
}

/// Servers for work that knows nothing of them.
///
/// They are stopped when this is dropped, and when this program is told to end (Ctrl-C, SIGTERM), which
/// then ends at once: a program that a signal ends drops nothing.
#[derive(Debug)]
pub(crate) struct Attended {
    servers: Arc<Mutex<Option<Servers>>>,
    variables: Vec<(&'static str, String)>,
    _runtime: Runtime,
}

impl Attended {
    /// Starts those that are `wanted`.
    pub(crate) fn start(wanted: &[Server]) -> Result<Self> {
        let runtime = runtime()?;
        let servers = runtime.block_on(Servers::start(wanted))?;
        let variables = servers.variables();
        let servers = Arc::new(Mutex::new(Some(servers)));
        let attended = Arc::clone(&servers);
        let mut signals = runtime.block_on(async { Signals::new() })?;
        runtime.spawn(async move {
            let number = signals.next().await.as_raw_value();
            drop(take(&attended));
            process::exit(128 + number);
        });
        Ok(Self { servers, variables, _runtime: runtime })
    }

    /// The variables that name them to tests.
    pub(crate) fn variables(&self) -> &[(&'static str, String)] {
        &self.variables
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        drop(take(&self.servers));
    }
}

fn take(servers: &Mutex<Option<Servers>>) -> Option<Servers> {
    servers.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// What tells a program to end. While this exists, and afterwards, none of it ends this program.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Listens from now on; only within a runtime.
    pub(crate) fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// The next that comes.
    pub(crate) async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.quit.recv() => SignalKind::quit(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hang_up.recv() => SignalKind::hangup(),
        }
    }
}

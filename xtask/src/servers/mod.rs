//! The servers that tests and programs of this repository need: private ones, gone afterwards.

mod install;

use std::{
    process,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use onewrite_testservers::{
    KAFKA_ENV, Kafka, MARIADB_ENV, Mariadb, NATS_ENV, Nats, POSTGRES_ENV, Postgres, RABBITMQ_ENV,
    REDIS_ENV, Rabbitmq, Redis,
};
use tokio::{
    runtime::{self, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};

use crate::workspace;

pub(crate) use self::install::install_missing;

/// A server by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Server {
    /// PostgreSQL.
    Postgres,
    /// MariaDB.
    Mariadb,
    /// NATS with JetStream.
    Nats,
    /// RabbitMQ.
    Rabbitmq,
    /// Redis.
    Redis,
    /// A mock of Kafka, of this workspace.
    Kafka,
}

/// What the tests need.
pub(crate) const ALL: &[Server] = &[
    Server::Postgres,
    Server::Mariadb,
    Server::Nats,
    Server::Rabbitmq,
    Server::Redis,
    Server::Kafka,
];

impl Server {
    /// Debian's package; `None` for what is built here.
    fn package(self) -> Option<&'static str> {
        match self {
            Self::Postgres => Some("postgresql"),
            Self::Mariadb => Some("mariadb-server"),
            Self::Nats => Some("nats-server"),
            Self::Rabbitmq => Some("rabbitmq-server"),
            Self::Redis => Some("redis-server"),
            Self::Kafka => None,
        }
    }

    fn is_installed(self) -> bool {
        match self {
            Self::Postgres => Postgres::is_installed(),
            Self::Mariadb => Mariadb::is_installed(),
            Self::Nats => Nats::is_installed(),
            Self::Rabbitmq => Rabbitmq::is_installed(),
            Self::Redis => Redis::is_installed(),
            Self::Kafka => true,
        }
    }

    /// The variable that names it to the repository's tests.
    fn test_variable(self) -> &'static str {
        match self {
            Self::Postgres => POSTGRES_ENV,
            Self::Mariadb => MARIADB_ENV,
            Self::Nats => NATS_ENV,
            Self::Rabbitmq => RABBITMQ_ENV,
            Self::Redis => REDIS_ENV,
            Self::Kafka => KAFKA_ENV,
        }
    }

    /// The variable that names it to anybody, and the one of what it is to programs of this repository.
    pub(crate) fn variables(self) -> [&'static str; 2] {
        match self {
            Self::Postgres => ["ONEWRITE_POSTGRES", STORE],
            Self::Mariadb => ["ONEWRITE_MARIADB", STORE],
            Self::Nats => ["ONEWRITE_NATS", BROKER],
            Self::Rabbitmq => ["ONEWRITE_RABBITMQ", BROKER],
            Self::Redis => ["ONEWRITE_REDIS", BROKER],
            Self::Kafka => ["ONEWRITE_KAFKA", BROKER],
        }
    }

    async fn start(self) -> Result<Running> {
        Ok(match self {
            Self::Postgres => Running::Postgres(Postgres::start().await.context("PostgreSQL")?),
            Self::Mariadb => Running::Mariadb(Mariadb::start().await.context("MariaDB")?),
            Self::Nats => Running::Nats(Nats::start().await.context("NATS")?),
            Self::Rabbitmq => Running::Rabbitmq(Rabbitmq::start().await.context("RabbitMQ")?),
            Self::Redis => Running::Redis(Redis::start().await.context("Redis")?),
            Self::Kafka => Running::Kafka(Kafka::start().await.context("Kafka")?),
        })
    }
}

/// Builds the programs of this workspace that `wanted` needs and that are not there.
pub(crate) fn build_missing(wanted: &[Server]) -> Result<()> {
    if !wanted.contains(&Server::Kafka) || Kafka::is_built() {
        return Ok(());
    }
    workspace::run(workspace::cargo().args(["build", "-p", "onewrite-mock-kafka"]))
}

const STORE: &str = "ONEWRITE_STORE";
const BROKER: &str = "ONEWRITE_BROKER";

/// A server that runs. It is stopped when this is dropped.
#[derive(Debug)]
enum Running {
    Postgres(Postgres),
    Mariadb(Mariadb),
    Nats(Nats),
    Rabbitmq(Rabbitmq),
    Redis(Redis),
    Kafka(Kafka),
}

impl Running {
    fn server(&self) -> Server {
        match self {
            Self::Postgres(_) => Server::Postgres,
            Self::Mariadb(_) => Server::Mariadb,
            Self::Nats(_) => Server::Nats,
            Self::Rabbitmq(_) => Server::Rabbitmq,
            Self::Redis(_) => Server::Redis,
            Self::Kafka(_) => Server::Kafka,
        }
    }

    /// Its URL, of a database server without a database.
    fn url(&self) -> String {
        match self {
            Self::Postgres(server) => server.address().server_url(),
            Self::Mariadb(server) => server.address().server_url(),
            Self::Nats(server) => server.url(),
            Self::Rabbitmq(server) => server.url(),
            Self::Redis(server) => server.url(),
            Self::Kafka(server) => server.url(),
        }
    }

    /// What tests are told: the mock of Kafka takes commands from them.
    fn test_url(&self) -> String {
        match self {
            Self::Kafka(server) => server.address().test_url(),
            _ => self.url(),
        }
    }

    /// Its URL, of a database server with a new database of this name.
    async fn url_with(&self, database: &str) -> Result<String> {
        match self {
            Self::Postgres(server) => server.create_database(database).await?,
            Self::Mariadb(server) => server.address().create_database(database).await?,
            Self::Nats(_) | Self::Rabbitmq(_) | Self::Redis(_) | Self::Kafka(_) => {
                return Ok(self.url());
            }
        }
        Ok(format!("{}/{database}", self.url()))
    }
}

/// Running servers: none or one of each kind. They are stopped when this is dropped.
#[derive(Debug)]
pub(crate) struct Servers(Vec<Running>);

impl Servers {
    /// Starts those that are `wanted`.
    pub(crate) async fn start(wanted: &[Server]) -> Result<Self> {
        let mut servers = Self(Vec::new());
        for server in wanted {
            if servers.0.iter().all(|running| running.server() != *server) {
                servers.0.push(server.start().await?);
            }
        }
        Ok(servers)
    }

    /// The variables that name them to tests.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        self.0
            .iter()
            .map(|running| (running.server().test_variable(), running.test_url()))
            .collect()
    }

    /// The URL of the one of this name, of a database server without a database.
    pub(crate) fn plain_url(&self, name: &str) -> Option<String> {
        let server = <Server as clap::ValueEnum>::from_str(name, false).ok()?;
        self.0.iter().find(|running| running.server() == server).map(Running::url)
    }

    /// Each with its URL, with a new database on those that have them.
    pub(crate) async fn urls(&self, database: &str) -> Result<Vec<(Server, String)>> {
        let mut urls = Vec::new();
        for running in &self.0 {
            urls.push((running.server(), running.url_with(database).await?));
        }
        Ok(urls)
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

//! A private RabbitMQ server.
//!
//! Its quorum queues sync what they take before it is confirmed: what was confirmed survives
//! [`Rabbitmq::kill`] and would survive a power cut. Erlang's port mapper, which nodes of one machine
//! share otherwise, is its own as well.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    blocking,
    folder::Folder,
    port,
    process::{self, Process, User},
};

/// Where Debian has what is not for the search path.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

/// Where a RabbitMQ server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RabbitmqAddress {
    port: u16,
}

impl RabbitmqAddress {
    /// Reads `amqp://127.0.0.1:PORT`.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let port = url.strip_prefix("amqp://127.0.0.1:")?.trim_end_matches('/').parse().ok()?;
        Some(Self { port })
    }

    /// `amqp://127.0.0.1:PORT`; its user is `guest`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}", self.port)
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// A running server. Stopped, and its folder removed, when this is dropped.
#[derive(Debug)]
pub struct Rabbitmq {
    server: Arc<Server>,
}

#[derive(Debug)]
struct Server {
    place: Place,
    address: RabbitmqAddress,
    process: Mutex<Process>,
    mapper: Mutex<Process>,
    folder: Folder,
}

/// What every program of a node is told.
#[derive(Debug, Clone)]
struct Place {
    folder: PathBuf,
    user: Option<User>,
    port: u16,
    /// For its own programs.
    node_port: u16,
    mapper_port: u16,
}

impl Rabbitmq {
    /// Whether the server's programs are there.
    #[must_use]
    pub fn is_installed() -> bool {
        program("rabbitmq-server").is_some() && process::find("epmd", &[]).is_some()
    }

    /// Starts one.
    ///
    /// # Errors
    /// When RabbitMQ is not installed, or the server does not start; the error holds the end of its log.
    pub async fn start() -> io::Result<Self> {
        Self::start_with("").await
    }

    /// Starts one with `config` added to its configuration file (`disk_free_limit.absolute = 1GB`).
    ///
    /// # Errors
    /// As [`Rabbitmq::start`]; among others, when `config` is not understood.
    pub async fn start_with(config: &str) -> io::Result<Self> {
        let config = config.to_owned();
        let server = blocking(move || Server::new(&config)).await?;
        Ok(Self { server: Arc::new(server) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &RabbitmqAddress {
        &self.server.address
    }

    /// `amqp://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        self.server.address.url()
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.address.port
    }

    /// Its folder: `data/`, `rabbitmq.conf` and `log`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.server.folder.path()
    }

    /// Runs `rabbitmqctl` for it; what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub async fn ctl(&self, words: &[&str]) -> io::Result<String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let server = Arc::clone(&self.server);
        blocking(move || {
            let mut command = server.place.command(&required("rabbitmqctl")?);
            command.arg("--quiet").args(words);
            let said = process::run(command, "rabbitmqctl")?;
            Ok(String::from_utf8_lossy(&said).into_owned())
        })
        .await
    }

    /// Ends it at once (SIGKILL) and waits until it is gone.
    pub fn kill(&self) {
        self.server.with(Process::crash);
    }

    /// Kills it, unless it has ended already, and starts it again on the same port and data.
    ///
    /// # Errors
    /// When it does not start; the error holds the end of its log.
    pub async fn restart(&self) -> io::Result<()> {
        let server = Arc::clone(&self.server);
        blocking(move || server.restart()).await
    }
}

impl Server {
    fn new(config: &str) -> io::Result<Self> {
        required("rabbitmq-server")?;
        let user = User::instead_of_root("rabbitmq")?;
        let folder = Folder::new(user.map(|user| (user.id, user.group)))?;
        let path = folder.path().to_path_buf();
        let (mapper_port, mapper) =
            port::on_a_free_one(|port| Ok((port, start_mapper(&path, user, port)?)))?;
        let (place, process) = port::on_a_free_one(|port| {
            let node_port = port::on_a_free_one(Ok)?;
            let place = Place { folder: path.clone(), user, port, node_port, mapper_port };
            place.configure(config)?;
            let process = place.start()?;
            Ok((place, process))
        })?;
        let address = RabbitmqAddress { port: place.port };
        Ok(Self {
            place,
            address,
            process: Mutex::new(process),
            mapper: Mutex::new(mapper),
            folder,
        })
    }

    fn restart(&self) -> io::Result<()> {
        self.with(|process| {
            process.crash();
            *process = self.place.start()?;
            Ok(())
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Process) -> T) -> T {
        act(&mut self.process.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.with(Process::crash);
        self.mapper.lock().unwrap_or_else(PoisonError::into_inner).crash();
    }
}

impl Place {
    /// What the node is configured with: nothing but what is said here.
    fn configure(&self, config: &str) -> io::Result<()> {
        let own = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\nlog.console = true\nlog.console.level = info\ndisk_free_limit.absolute = 50MB\n",
            self.port
        );
        fs::write(self.folder.join("rabbitmq.conf"), own + config)?;
        fs::write(self.folder.join("enabled_plugins"), "[].\n")
    }

    /// One of RabbitMQ's programs, for this node alone.
    fn command(&self, program: &Path) -> Command {
        let at = |name: &str| self.folder.join(name);
        let mut command = process::command(program, "KILL", self.user);
        command
            .env("HOME", &self.folder)
            .env("RABBITMQ_NODENAME", format!("onewrite-{}@localhost", self.port))
            .env("RABBITMQ_MNESIA_BASE", at("data"))
            .env("RABBITMQ_LOG_BASE", &self.folder)
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("enabled_plugins"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", at("generated"))
            .env("RABBITMQ_PID_FILE", at("pid"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_DIST_PORT", self.node_port.to_string())
            .env("ERL_EPMD_PORT", self.mapper_port.to_string())
            .current_dir(&self.folder);
        command
    }

    /// Starts the node, and waits until its own log says that it listens.
    fn start(&self) -> io::Result<Process> {
        let mut command = self.command(&required("rabbitmq-server")?);
        command
            // Then the script becomes the server, whose id is the one we know.
            .env("RUNNING_UNDER_SYSTEMD", "1")
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1}",
            );
        let log = self.folder.join("log");
        let before = log.metadata().map_or(0, |log| log.len());
        Process::start(command, &log, |_| {
            process::said(&log, before).is_ok_and(|said| said.contains("Server startup complete"))
        })
    }
}

/// Starts Erlang's port mapper, and waits until it listens.
fn start_mapper(folder: &Path, user: Option<User>, port: u16) -> io::Result<Process> {
    let program = process::find("epmd", &[]).ok_or_else(missing)?;
    let mut command = process::command(program, "KILL", user);
    command.args(["-address", "127.0.0.1", "-port"]).arg(port.to_string());
    Process::start(command, &folder.join("mapper.log"), |_| {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
    })
}

fn program(name: &str) -> Option<PathBuf> {
    // Debian's own in the search path are wrappers that change the user and the log.
    process::find(name, &[PROGRAMS.into()])
}

fn required(name: &str) -> io::Result<PathBuf> {
    program(name).ok_or_else(missing)
}

fn missing() -> io::Error {
    io::Error::other("RabbitMQ is not installed (Debian: `apt-get install rabbitmq-server`)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_back() {
        let address = RabbitmqAddress { port: 5672 };
        assert_eq!(RabbitmqAddress::parse(&address.url()), Some(address));
        assert_eq!(RabbitmqAddress::parse("amqp://example.com:5672"), None);
    }
}

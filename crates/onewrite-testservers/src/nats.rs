//! A private NATS server with JetStream.
//!
//! Its data survives [`Nats::kill`], as the system keeps what a process wrote. It does not show what a
//! power cut would take: NATS syncs its files every two minutes.

use std::{
    fs, io,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    blocking,
    folder::Folder,
    port,
    process::{self, Process},
    random::unique,
};

/// Where a NATS server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsAddress {
    port: u16,
}

impl NatsAddress {
    /// Reads `nats://127.0.0.1:PORT`.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let port = url.strip_prefix("nats://127.0.0.1:")?.trim_end_matches('/').parse().ok()?;
        Some(Self { port })
    }

    /// `nats://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// A running server. Stopped, and its folder removed, when this is dropped.
#[derive(Debug)]
pub struct Nats {
    server: Arc<Server>,
}

#[derive(Debug)]
struct Server {
    program: PathBuf,
    /// What tells it from another server that took its port.
    name: String,
    address: NatsAddress,
    process: Mutex<Process>,
    folder: Folder,
}

impl Nats {
    /// Whether the server's program is there.
    #[must_use]
    pub fn is_installed() -> bool {
        program().is_some()
    }

    /// Starts one.
    ///
    /// # Errors
    /// When NATS is not installed, or the server does not start; the error holds the end of its log.
    pub async fn start() -> io::Result<Self> {
        Self::start_with("").await
    }

    /// Starts one with `config` added to its configuration file.
    ///
    /// # Errors
    /// As [`Nats::start`]; among others, when `config` is not understood.
    pub async fn start_with(config: &str) -> io::Result<Self> {
        let config = config.to_owned();
        let server = blocking(move || Server::new(&config)).await?;
        Ok(Self { server: Arc::new(server) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &NatsAddress {
        &self.server.address
    }

    /// `nats://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        self.server.address.url()
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.address.port
    }

    /// Its folder: `data/`, `config` and `log`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.server.folder.path()
    }

    /// Ends it at once (SIGKILL) and waits until it is gone.
    pub fn kill(&self) {
        self.server.with(Process::crash);
    }

    /// Ends it in order (SIGTERM) and waits until it is gone.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(&self) -> io::Result<()> {
        let server = Arc::clone(&self.server);
        blocking(move || {
            let ended = server.with(|process| process.end(Signal::TERM));
            if ended { Ok(()) } else { Err(io::Error::other("the NATS server does not end")) }
        })
        .await
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
        let program = program().ok_or_else(|| {
            io::Error::other("NATS is not installed (Debian: `apt-get install nats-server`)")
        })?;
        let (folder, name) = (Folder::new(None)?, unique("onewrite"));
        let (address, process) = port::on_a_free_one(|port| {
            write_config(folder.path(), &name, port, config)?;
            Ok((NatsAddress { port }, start(&program, folder.path(), &name, port)?))
        })?;
        Ok(Self { program, name, address, process: Mutex::new(process), folder })
    }

    fn restart(&self) -> io::Result<()> {
        self.with(|process| {
            process.crash();
            *process = start(&self.program, self.folder.path(), &self.name, self.address.port)?;
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
    }
}

/// Debian puts it into a folder that only root searches.
fn program() -> Option<PathBuf> {
    process::find("nats-server", &["/usr/sbin".into(), "/usr/local/bin".into()])
}

fn write_config(folder: &Path, name: &str, port: u16, more: &str) -> io::Result<()> {
    let data = folder.join("data");
    let config = format!(
        "listen: 127.0.0.1:{port}\n\
         server_name: {name}\n\
         jetstream {{ store_dir: {:?} }}\n\
         {more}\n",
        data.display().to_string()
    );
    fs::write(folder.join("config"), config)
}

fn start(program: &Path, folder: &Path, name: &str, port: u16) -> io::Result<Process> {
    let mut command = process::command(program, "KILL", None);
    command.arg("-c").arg(folder.join("config")).current_dir(folder);
    Process::start(command, &folder.join("log"), |_| greets(port, name).unwrap_or(false))
}

/// Whether the server on `port` calls itself `name`. It listens only once JetStream is up.
fn greets(port: u16, name: &str) -> io::Result<bool> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.starts_with("INFO ") && line.contains(&format!("{name:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_back() {
        let address = NatsAddress { port: 4222 };
        assert_eq!(NatsAddress::parse(&address.url()), Some(address));
        assert_eq!(NatsAddress::parse("nats://example.com:4222"), None);
    }
}

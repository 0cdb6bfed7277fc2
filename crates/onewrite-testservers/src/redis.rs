//! A private Redis server.
//!
//! It writes each change to its append-only file and syncs that before it answers, which is not its
//! default: what it answered survives [`Redis::kill`] and would survive a power cut.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    blocking,
    folder::Folder,
    port,
    process::{self, Process},
};

/// What every server is set to. It keeps no snapshots: they would be a second truth beside the file.
const SETTINGS: &[&str] = &[
    "--bind",
    "127.0.0.1",
    "--appendonly",
    "yes",
    "--appendfsync",
    "always",
    "--auto-aof-rewrite-percentage",
    "0",
    "--save",
    "",
    "--daemonize",
    "no",
];

/// Where a Redis server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisAddress {
    port: u16,
}

impl RedisAddress {
    /// Reads `redis://127.0.0.1:PORT`.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let port = url.strip_prefix("redis://127.0.0.1:")?.trim_end_matches('/').parse().ok()?;
        Some(Self { port })
    }

    /// `redis://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// A running server. Stopped, and its folder removed, when this is dropped.
#[derive(Debug)]
pub struct Redis {
    server: Arc<Server>,
}

#[derive(Debug)]
struct Server {
    program: PathBuf,
    settings: Vec<String>,
    address: RedisAddress,
    process: Mutex<Process>,
    folder: Folder,
}

impl Redis {
    /// Whether the server's program is there.
    #[must_use]
    pub fn is_installed() -> bool {
        program().is_some()
    }

    /// Starts one.
    ///
    /// # Errors
    /// When Redis is not installed, or the server does not start; the error holds the end of its log.
    pub async fn start() -> io::Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts one with these options behind its own, as on its command line (`--maxmemory`, `20mb`).
    ///
    /// # Errors
    /// As [`Redis::start`]; among others, when an option is not understood.
    pub async fn start_with(options: &[&str]) -> io::Result<Self> {
        let settings = SETTINGS.iter().chain(options).map(|word| (*word).to_owned()).collect();
        let server = blocking(move || Server::new(settings)).await?;
        Ok(Self { server: Arc::new(server) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &RedisAddress {
        &self.server.address
    }

    /// `redis://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        self.server.address.url()
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.address.port
    }

    /// Its folder: `appendonlydir/` and `log`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.server.folder.path()
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
    fn new(settings: Vec<String>) -> io::Result<Self> {
        let program = program().ok_or_else(|| {
            io::Error::other("Redis is not installed (Debian: `apt-get install redis-server`)")
        })?;
        let folder = Folder::new(None)?;
        let (address, process) = port::on_a_free_one(|port| {
            Ok((RedisAddress { port }, start(&program, folder.path(), port, &settings)?))
        })?;
        Ok(Self { program, settings, address, process: Mutex::new(process), folder })
    }

    fn restart(&self) -> io::Result<()> {
        self.with(|process| {
            process.crash();
            let port = self.address.port;
            *process = start(&self.program, self.folder.path(), port, &self.settings)?;
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

fn program() -> Option<PathBuf> {
    process::find("redis-server", &["/usr/bin".into(), "/usr/local/bin".into()])
}

/// Starts it, and waits until its own log says that it has its port and has loaded its data: whatever
/// else listens there would not write to it.
fn start(program: &Path, folder: &Path, port: u16, settings: &[String]) -> io::Result<Process> {
    let mut command = process::command(program, "KILL", None);
    command.arg("--port").arg(port.to_string()).arg("--dir").arg(folder).args(settings);
    command.current_dir(folder);
    let log = folder.join("log");
    let before = log.metadata().map_or(0, |log| log.len());
    Process::start(command, &log, |_| {
        process::said(&log, before).is_ok_and(|said| said.contains("Ready to accept connections"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_back() {
        let address = RedisAddress { port: 6379 };
        assert_eq!(RedisAddress::parse(&address.url()), Some(address));
        assert_eq!(RedisAddress::parse("redis://example.com:6379"), None);
    }
}

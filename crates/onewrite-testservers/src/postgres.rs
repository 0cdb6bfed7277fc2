//! A private PostgreSQL server.
//!
//! It is set up as a careful operator would: syncs are on, passwords are asked for (SCRAM), and logical
//! decoding and prepared transactions are possible. PostgreSQL refuses to run as root; for root it runs
//! as the user `postgres`, whom Debian's package creates.

mod address;
mod setup;

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::process::Signal;

pub use self::address::PostgresAddress;
use self::setup::Programs;
use crate::{blocking, folder::Folder, port, process::Process};

/// A running server. Stopped, and its folder removed, when this is dropped.
#[derive(Debug)]
pub struct Postgres {
    server: Arc<Server>,
}

#[derive(Debug)]
struct Server {
    programs: Programs,
    address: PostgresAddress,
    process: Mutex<Process>,
    folder: Folder,
}

impl Postgres {
    /// Whether the server's programs are there.
    #[must_use]
    pub fn is_installed() -> bool {
        Programs::find().is_ok()
    }

    /// Starts one with an empty database `postgres`.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, or the server does not start; the error holds the end of its
    /// log.
    pub async fn start() -> io::Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts one with these settings on top of its own, as in `postgresql.conf`.
    ///
    /// # Errors
    /// As [`Postgres::start`]; among others, when a setting is not understood.
    pub async fn start_with(settings: &[(&str, &str)]) -> io::Result<Self> {
        let lines = settings.iter().map(|(name, value)| setup::setting(name, value));
        let lines: Vec<String> = lines.collect();
        Ok(Self::with(blocking(move || Server::new(&lines)).await?))
    }

    /// Copies it while it runs (`pg_basebackup`) and starts the copy as its streaming standby.
    ///
    /// # Errors
    /// When the copy fails, or does not start; the error holds the end of its log.
    pub async fn standby(&self) -> io::Result<Self> {
        let primary = Arc::clone(&self.server);
        Ok(Self::with(blocking(move || primary.standby()).await?))
    }

    /// Makes a standby a primary; it takes writes afterwards.
    ///
    /// # Errors
    /// When it is no standby, or is not promoted within a minute.
    pub async fn promote(&self) -> io::Result<()> {
        match self.psql("postgres", "SELECT pg_promote(true, 60)").await?.trim() {
            "t" => Ok(()),
            _ => Err(io::Error::other("the standby was not promoted within 60 s")),
        }
    }

    /// Where it listens, and what can be done from there.
    #[must_use]
    pub fn address(&self) -> &PostgresAddress {
        &self.server.address
    }

    /// `postgres://postgres:PASSWORD@127.0.0.1:PORT/database`, the superuser's.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.server.address.url(database)
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.address.port()
    }

    /// Its folder: `data/`, `log`, and the Unix socket.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.server.folder.path()
    }

    /// Creates a database.
    ///
    /// # Errors
    /// As [`Postgres::psql`].
    pub async fn create_database(&self, name: &str) -> io::Result<()> {
        self.server.address.create_database(name).await
    }

    /// Runs SQL, each statement for itself, and returns its rows: a line each, columns parted by `|`.
    ///
    /// # Errors
    /// With what the server said, when a statement fails or the server cannot be reached.
    pub async fn psql(&self, database: &str, sql: &str) -> io::Result<String> {
        self.server.address.psql(database, sql).await
    }

    /// Ends the server and all its processes at once (SIGKILL), and waits until they are gone.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// Ends it in order: connections are closed, and a checkpoint is written.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(&self) -> io::Result<()> {
        let server = Arc::clone(&self.server);
        blocking(move || {
            let ended = server.with(|process| process.end(Signal::INT));
            if ended { Ok(()) } else { Err(io::Error::other("the PostgreSQL server does not end")) }
        })
        .await
    }

    /// Kills it as [`Postgres::kill`] does, unless it has ended already, and starts it again on the same
    /// port and data.
    ///
    /// # Errors
    /// When it does not start; the error holds the end of its log.
    pub async fn restart(&self) -> io::Result<()> {
        let server = Arc::clone(&self.server);
        blocking(move || server.restart()).await
    }

    fn with(server: Server) -> Self {
        Self { server: Arc::new(server) }
    }
}

impl Server {
    fn new(settings: &[String]) -> io::Result<Self> {
        let programs = Programs::find()?;
        let (folder, password) = (programs.folder()?, setup::password());
        programs.init(folder.path(), &password, settings)?;
        Self::first_start(programs, folder, &password)
    }

    fn standby(&self) -> io::Result<Self> {
        let programs = self.programs.clone();
        let folder = programs.folder()?;
        programs.copy(&self.address, folder.path())?;
        Self::first_start(programs, folder, self.address.password())
    }

    fn first_start(programs: Programs, folder: Folder, password: &str) -> io::Result<Self> {
        let (address, process) = port::on_a_free_one(|port| {
            let process = programs.start(folder.path(), port)?;
            Ok((PostgresAddress::new(port, password), process))
        })?;
        Ok(Self { programs, address, process: Mutex::new(process), folder })
    }

    fn kill(&self) {
        self.with(Process::crash);
        setup::remove_shared_memory(self.folder.path());
    }

    fn restart(&self) -> io::Result<()> {
        self.with(|process| {
            process.crash();
            *process = self.programs.start(self.folder.path(), self.address.port())?;
            Ok(())
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Process) -> T) -> T {
        act(&mut self.process.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It cleans up behind itself, and writes nothing that is thrown away in a moment.
        if !self.with(|process| process.end(Signal::QUIT)) {
            self.kill();
        }
    }
}

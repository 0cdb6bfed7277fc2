//! A private MariaDB server.
//!
//! It syncs each commit, which is its default. For root it runs as the user `mysql`, whom Debian's package
//! creates.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::process::Signal;

use crate::{
    blocking,
    folder::Folder,
    port,
    process::{self, Process, User},
    random::random,
};

/// What Debian calls the user that MariaDB runs as.
const USER: &str = "mysql";

/// Who may do everything, from 127.0.0.1 alone.
const ADMIN: &str = "onewrite";

/// What every server is set to.
const SETTINGS: &[&str] = &[
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--max-connections=300",
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=96M",
    "--character-set-server=utf8mb4",
];

/// Where a MariaDB server listens, and what a test does there without a driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MariadbAddress {
    port: u16,
    password: String,
}

impl MariadbAddress {
    /// Reads `mysql://onewrite:PASSWORD@127.0.0.1:PORT`.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("mysql://")?.strip_prefix(ADMIN)?.strip_prefix(':')?;
        let (password, port) = rest.split_once("@127.0.0.1:")?;
        Some(Self { port: port.trim_end_matches('/').parse().ok()?, password: password.into() })
    }

    /// `mysql://onewrite:PASSWORD@127.0.0.1:PORT`, without a database.
    #[must_use]
    pub fn server_url(&self) -> String {
        format!("mysql://{ADMIN}:{}@127.0.0.1:{}", self.password, self.port)
    }

    /// `mysql://onewrite:PASSWORD@127.0.0.1:PORT/database`, of a user who may do everything.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("{}/{database}", self.server_url())
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Creates a database.
    ///
    /// # Errors
    /// As [`MariadbAddress::sql`].
    pub async fn create_database(&self, name: &str) -> io::Result<()> {
        self.sql("", &format!("CREATE DATABASE `{}`", name.replace('`', "``"))).await.map(drop)
    }

    /// Runs SQL in a database (or in none, when its name is empty) and returns its rows: a line each,
    /// columns parted by tabs.
    ///
    /// # Errors
    /// With what the server said, when a statement fails or the server cannot be reached.
    pub async fn sql(&self, database: &str, sql: &str) -> io::Result<String> {
        let mut command = self.client("mariadb")?;
        command.args(["--batch", "--skip-column-names", "-e", sql, database]);
        let done = blocking(move || process::run(command, "mariadb")).await?;
        Ok(String::from_utf8_lossy(&done).into_owned())
    }

    /// Dumps a database with all that belongs to it, and restores it under another name.
    ///
    /// # Errors
    /// As [`MariadbAddress::sql`].
    pub async fn copy_database(&self, from: &str, to: &str) -> io::Result<()> {
        self.create_database(to).await?;
        let mut dump = self.client("mariadb-dump")?;
        dump.args(["--routines", "--single-transaction", "--skip-comments", from]);
        let dumped = blocking(move || process::run(dump, "mariadb-dump")).await?;
        self.sql(to, &String::from_utf8_lossy(&dumped)).await.map(drop)
    }

    /// One of the programs that connect to it.
    fn client(&self, name: &str) -> io::Result<Command> {
        let mut command = Command::new(program(name)?);
        command.args(["--no-defaults", "-h", "127.0.0.1", "-u", ADMIN, "-P"]);
        command.arg(self.port.to_string()).env("MYSQL_PWD", &self.password);
        Ok(command)
    }
}

/// A running server. Stopped, and its folder removed, when this is dropped.
#[derive(Debug)]
pub struct Mariadb {
    server: Arc<Server>,
}

#[derive(Debug)]
struct Server {
    settings: Vec<String>,
    address: MariadbAddress,
    process: Mutex<Process>,
    folder: Folder,
}

impl Mariadb {
    /// Whether the server's programs are there.
    #[must_use]
    pub fn is_installed() -> bool {
        ["mariadbd", "mariadb-install-db", "mariadb"].iter().all(|name| program(name).is_ok())
    }

    /// Starts one without databases.
    ///
    /// # Errors
    /// When MariaDB is not installed, or the server does not start; the error holds the end of its log.
    pub async fn start() -> io::Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts one with these options on top of its own, as on its command line (`--log-bin`).
    ///
    /// # Errors
    /// As [`Mariadb::start`]; among others, when an option is not understood.
    pub async fn start_with(options: &[&str]) -> io::Result<Self> {
        let settings = SETTINGS.iter().chain(options).map(|option| (*option).to_owned()).collect();
        let server = blocking(move || Server::new(settings)).await?;
        Ok(Self { server: Arc::new(server) })
    }

    /// Where it listens, and what can be done from there.
    #[must_use]
    pub fn address(&self) -> &MariadbAddress {
        &self.server.address
    }

    /// Its folder: `data/`, `log`, and the Unix socket.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.server.folder.path()
    }

    /// Ends it at once (SIGKILL) and waits until it is gone.
    pub fn kill(&self) {
        self.server.with(Process::crash);
    }

    /// Kills it as [`Mariadb::kill`] does, unless it has ended already, and starts it again on the same port
    /// and data.
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
        let user = User::instead_of_root(USER)?;
        let folder = Folder::new(user.map(|user| (user.id, user.group)))?;
        let password = format!("{:016x}{:016x}", random(), random());
        init(folder.path(), &password)?;
        let (port, process) =
            port::on_a_free_one(|port| Ok((port, start(folder.path(), port, &settings)?)))?;
        let address = MariadbAddress { port, password };
        Ok(Self { settings, address, process: Mutex::new(process), folder })
    }

    fn restart(&self) -> io::Result<()> {
        self.with(|process| {
            process.crash();
            *process = start(self.folder.path(), self.address.port, &self.settings)?;
            Ok(())
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Process) -> T) -> T {
        act(&mut self.process.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It writes nothing that is thrown away in a moment.
        if !self.with(|process| process.end(Signal::KILL)) {
            self.with(Process::crash);
        }
    }
}

/// Debian puts some of them into a folder that only root searches.
fn program(name: &str) -> io::Result<PathBuf> {
    process::find(name, &["/usr/sbin".into()]).ok_or_else(|| {
        io::Error::other("MariaDB is not installed (Debian: `apt-get install mariadb-server`)")
    })
}

/// One of its programs, as its user, without anybody's configuration.
fn command(name: &str, folder: &Path) -> io::Result<Command> {
    let mut command = process::command(program(name)?, "KILL", User::instead_of_root(USER)?);
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MYSQL"))
    {
        command.env_remove(name);
    }
    command.arg("--no-defaults").arg(format!("--datadir={}", data(folder).display()));
    // Of its own: a server that starts removes what others have put into a shared one.
    command.env("TMPDIR", folder);
    command.env("LC_ALL", "C").current_dir("/");
    Ok(command)
}

/// Makes the files of a new server in `folder`.
fn init(folder: &Path, password: &str) -> io::Result<()> {
    let mut install = command("mariadb-install-db", folder)?;
    install.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
    process::run(install, "mariadb-install-db")?;
    let users = format!(
        "CREATE USER IF NOT EXISTS '{ADMIN}'@'127.0.0.1' IDENTIFIED BY '{password}';\n\
         GRANT ALL ON *.* TO '{ADMIN}'@'127.0.0.1' WITH GRANT OPTION;\n\
         DROP USER IF EXISTS 'root'@'localhost';\n"
    );
    fs::write(folder.join("users.sql"), users)
}

/// Starts the server of `folder` and waits until it says that it is ready.
fn start(folder: &Path, port: u16, settings: &[String]) -> io::Result<Process> {
    let mut server = command("mariadbd", folder)?;
    for (name, file) in [("socket", "socket"), ("pid-file", "pid"), ("init-file", "users.sql")] {
        server.arg(format!("--{name}={}", folder.join(file).display()));
    }
    server.arg(format!("--port={port}")).args(settings);
    let log = folder.join("log");
    let before = fs::metadata(&log).map_or(0, |log| log.len());
    Process::start(server, &log, |_| {
        process::said(&log, before).is_ok_and(|said| said.contains("ready for connections"))
    })
}

fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_back() {
        let address = MariadbAddress { port: 3306, password: "secret".into() };
        assert_eq!(MariadbAddress::parse(&address.server_url()), Some(address));
        assert_eq!(MariadbAddress::parse("mysql://onewrite:x@example.com:3306"), None);
    }
}

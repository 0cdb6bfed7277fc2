//! Where a PostgreSQL server listens, and what a test does there without a driver.

use std::{
    env,
    io::{self, Write},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use super::setup::Programs;
use crate::blocking;

/// A PostgreSQL server's port, and its superuser's password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresAddress {
    port: u16,
    password: String,
}

impl PostgresAddress {
    pub(super) fn new(port: u16, password: &str) -> Self {
        Self { port, password: password.to_owned() }
    }

    /// Reads `postgres://postgres:PASSWORD@127.0.0.1:PORT`.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("postgres://postgres:")?;
        let (password, port) = rest.split_once("@127.0.0.1:")?;
        Some(Self::new(port.trim_end_matches('/').parse().ok()?, password))
    }

    /// `postgres://postgres:PASSWORD@127.0.0.1:PORT`, without a database.
    #[must_use]
    pub fn server_url(&self) -> String {
        format!("postgres://postgres:{}@127.0.0.1:{}", self.password, self.port)
    }

    /// `postgres://postgres:PASSWORD@127.0.0.1:PORT/database`, the superuser's.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("{}/{database}", self.server_url())
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn password(&self) -> &str {
        &self.password
    }

    /// Creates a database.
    ///
    /// # Errors
    /// As [`PostgresAddress::psql`].
    pub async fn create_database(&self, name: &str) -> io::Result<()> {
        let sql = format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\""));
        self.psql("postgres", &sql).await.map(drop)
    }

    /// Runs SQL, each statement for itself, and returns its rows: a line each, columns parted by `|`.
    ///
    /// # Errors
    /// With what the server said, when a statement fails or the server cannot be reached.
    pub async fn psql(&self, database: &str, sql: &str) -> io::Result<String> {
        let (address, database, sql) = (self.clone(), database.to_owned(), sql.to_owned());
        blocking(move || address.run(&database, sql)).await
    }

    fn run(&self, database: &str, sql: String) -> io::Result<String> {
        let mut command = Command::new(Programs::find()?.path("psql"));
        self.connect(&mut command);
        command.args(["-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-d", database]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut input) = child.stdin.take() {
            // Beside the reading of its output: either pipe may be full. It may end before it has read
            // all, which its own error explains better than the broken pipe.
            thread::spawn(move || input.write_all(sql.as_bytes()));
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("psql: {}", said.trim())));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Has one of PostgreSQL's programs connect to this server.
    pub(super) fn connect(&self, command: &mut Command) {
        without_settings(command);
        command.args(["-h", "127.0.0.1", "-U", "postgres", "-p"]).arg(self.port.to_string());
        command.env("PGPASSWORD", &self.password);
    }
}

/// The caller's environment may be set up for another server, and for another language.
pub(super) fn without_settings(command: &mut Command) {
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    // The current folder may be one that the server's user cannot enter.
    command.env("LC_ALL", "C").current_dir(Path::new("/"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_back() {
        let address = PostgresAddress::new(5432, "secret");
        assert_eq!(PostgresAddress::parse(&address.server_url()), Some(address));
        assert_eq!(PostgresAddress::parse("postgres://postgres:x@example.com:5432"), None);
    }
}

//! The databases of a run on PostgreSQL: one for each service.

use onewrite::{
    Code, Error, Result,
    postgres::{
        Options,
        tokio_postgres::{Client, NoTls, config::SslMode},
    },
};
use onewrite_shop::Role;

use super::stage::{Run, named};

pub(crate) struct Databases {
    /// The server, and a database there that exists already.
    server: String,
    names: Vec<(Role, String)>,
}

impl Databases {
    /// The databases of `run` at the server of `url`, whose own database is only passed through.
    pub(crate) fn at(url: &str, run: &Run) -> Self {
        let path = url.split('?').next().unwrap_or_default().split("://").nth(1);
        let has_database = path
            .and_then(|path| path.split_once('/'))
            .is_some_and(|(_, database)| !database.is_empty());
        // Every server has this one.
        let server = if has_database { url.to_owned() } else { named(url, "postgres") };
        Self { server, names: Role::ALL.map(|role| (role, run.name(role))).to_vec() }
    }

    /// The URL of each service's database.
    pub(crate) fn urls(&self) -> Vec<(Role, String)> {
        self.names.iter().map(|(role, name)| (*role, named(&self.server, name))).collect()
    }

    /// Creates them.
    pub(crate) async fn create(&self) -> Result<()> {
        self.each("CREATE DATABASE", "").await
    }

    /// Drops those that exist, whoever is still connected.
    pub(crate) async fn drop_all(&self) -> Result<()> {
        self.each("DROP DATABASE IF EXISTS", " WITH (FORCE)").await
    }

    async fn each(&self, before: &str, after: &str) -> Result<()> {
        let client = connect(&self.server).await?;
        for (_, name) in &self.names {
            // The names are our own: letters, digits and `_`.
            let sql = format!("{before} {name}{after}");
            client.batch_execute(&sql).await.map_err(|error| {
                Error::new(Code::Database, format!("{before} {name}")).with_source(error)
            })?;
        }
        Ok(())
    }
}

/// A connection of its own: databases are made outside of any store.
async fn connect(url: &str) -> Result<Client> {
    let options = Options::from_url(url)?;
    if options.config.get_ssl_mode() != SslMode::Disable {
        return Err(Error::new(
            Code::InvalidConfig,
            "the demo makes databases only on a server that it reaches without TLS: one on this machine, or with `?sslmode=disable`",
        ));
    }
    let (client, connection) = options.config.connect(NoTls).await.map_err(|error| {
        Error::new(Code::StoreUnreachable, "connect to PostgreSQL").with_source(error)
    })?;
    tokio::spawn(connection);
    Ok(client)
}

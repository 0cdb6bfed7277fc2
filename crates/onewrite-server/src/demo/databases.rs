//! The databases of a run on a server: one for each service.

use onewrite::{
    Code, Error, Result,
    mysql::{
        self,
        mysql_async::{Conn, prelude::Queryable as _},
    },
    postgres::{
        Options,
        tokio_postgres::{Client, NoTls, config::SslMode},
    },
};
use onewrite_shop::Role;

use super::stage::{Run, named};
use crate::backends::scheme;

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
        let any = if is_postgres(url) { "postgres" } else { "information_schema" };
        let server = if has_database { url.to_owned() } else { named(url, any) };
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
        let force = if is_postgres(&self.server) { " WITH (FORCE)" } else { "" };
        self.each("DROP DATABASE IF EXISTS", force).await
    }

    async fn each(&self, before: &str, after: &str) -> Result<()> {
        let mut server = Server::connect(&self.server).await?;
        for (_, name) in &self.names {
            // The names are our own: letters, digits and `_`.
            let sql = format!("{before} {name}{after}");
            server.run(&sql).await?;
        }
        Ok(())
    }
}

/// A connection of its own: databases are made outside of any store.
enum Server {
    Postgres(Client),
    Mysql(Box<Conn>),
}

impl Server {
    async fn connect(url: &str) -> Result<Self> {
        let without_tls = |is_plain: bool| match is_plain {
            true => Ok(()),
            false => Err(Error::new(
                Code::InvalidConfig,
                "the demo makes databases only on a server that it reaches without TLS: one on this machine, or with `?sslmode=disable`",
            )),
        };
        let failed = |what: &str| Error::new(Code::StoreUnreachable, format!("connect to {what}"));
        if !is_postgres(url) {
            let options = mysql::Options::from_url(url)?;
            without_tls(options.connect.ssl_opts().is_none())?;
            let conn = Conn::new(options.connect).await;
            let conn = conn.map_err(|error| failed("MariaDB").with_source(error))?;
            return Ok(Self::Mysql(Box::new(conn)));
        }
        let options = Options::from_url(url)?;
        without_tls(options.config.get_ssl_mode() == SslMode::Disable)?;
        let connected = options.config.connect(NoTls).await;
        let (client, connection) =
            connected.map_err(|error| failed("PostgreSQL").with_source(error))?;
        tokio::spawn(connection);
        Ok(Self::Postgres(client))
    }

    async fn run(&mut self, sql: &str) -> Result<()> {
        let failed = || Error::new(Code::Database, sql.to_owned());
        match self {
            Self::Postgres(client) => {
                client.batch_execute(sql).await.map_err(|error| failed().with_source(error))
            }
            Self::Mysql(conn) => {
                conn.query_drop(sql).await.map_err(|error| failed().with_source(error))
            }
        }
    }
}

fn is_postgres(url: &str) -> bool {
    scheme(url).starts_with("postgres")
}

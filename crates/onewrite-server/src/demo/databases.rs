//! The databases of a run on a server: one for each service.

use onewrite::{
    Result,
    mysql::{
        self,
        mysql_async::{self, prelude::Queryable as _},
    },
    postgres::{
        self,
        tokio_postgres::{self, error::SqlState},
    },
};
use onewrite_shop::Role;

use super::{
    removal::{self, Rest},
    stage::{Run, named},
};
use crate::backends::scheme;

pub(crate) struct Databases {
    /// The server, and a database there that exists already.
    server: String,
    names: Vec<(Role, String)>,
    /// The names that were begun with: there may be such a database.
    made: Vec<String>,
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
        let names = Role::ALL.map(|role| (role, run.name(role))).to_vec();
        Self { server, names, made: Vec::new() }
    }

    /// The URL of each service's database.
    pub(crate) fn urls(&self) -> Vec<(Role, String)> {
        self.names.iter().map(|(role, name)| (*role, named(&self.server, name))).collect()
    }

    /// Creates them. A connection of its own: databases are made outside of any store.
    pub(crate) async fn create(&mut self) -> Result<()> {
        let mut server = Server::connect(&self.server).await?;
        for (_, name) in &self.names {
            self.made.push(name.clone());
            // The names are our own: letters, digits and `_`.
            server.run(&format!("CREATE DATABASE {name}")).await?;
        }
        Ok(())
    }

    /// Drops those that were made, whoever is still connected.
    pub(crate) async fn drop_all(&self) -> Rest {
        removal::each(&self.made, async |name| self.drop(name).await, |name| self.command(name))
            .await
    }

    async fn drop(&self, name: &str) -> Result<()> {
        let force = self.force();
        let sql = format!("DROP DATABASE IF EXISTS {name}{force}");
        let mut server = Server::connect(&self.server).await?;
        server.forget_passages(name).await?;
        server.run(&sql).await
    }

    /// Those that were made, when they are to stay.
    pub(crate) fn kept(&self) -> Rest {
        Rest { commands: self.made.iter().map(|name| self.command(name)).collect(), why: None }
    }

    /// What drops one by hand.
    fn command(&self, name: &str) -> String {
        let force = self.force();
        format!("DROP DATABASE {name}{force};")
    }

    /// Without it PostgreSQL keeps a database that somebody is connected to.
    fn force(&self) -> &'static str {
        if is_postgres(&self.server) { " WITH (FORCE)" } else { "" }
    }
}

fn is_postgres(url: &str) -> bool {
    scheme(url).starts_with("postgres")
}

/// A connection to make databases on.
enum Server {
    Postgres(tokio_postgres::Client),
    Mysql(Box<mysql_async::Conn>),
}

impl Server {
    async fn connect(url: &str) -> Result<Self> {
        if is_postgres(url) {
            return Ok(Self::Postgres(postgres::Options::from_url(url)?.connect().await?));
        }
        Ok(Self::Mysql(Box::new(mysql::Options::from_url(url)?.connect().await?)))
    }

    /// Forgets which sagas of the database `name` have passed a barrier, where that is not in the
    /// participants' own databases.
    async fn forget_passages(&mut self, name: &str) -> Result<()> {
        let Self::Mysql(conn) = self else { return Ok(()) };
        let there = format!(
            "SELECT count(*) FROM information_schema.tables WHERE (table_schema, table_name)
             IN (('dtm_barrier', 'barrier'), ('{name}', 'onewrite_saga'))"
        );
        let failed = |error| mysql::failed("look for the barrier's table", error);
        let found: Option<u64> = conn.query_first(there).await.map_err(failed)?;
        if found != Some(2) {
            return Ok(());
        }
        let id = "lower(concat_ws('-', substr(hex(id), 1, 8), substr(hex(id), 9, 4),
            substr(hex(id), 13, 4), substr(hex(id), 17, 4), substr(hex(id), 21)))";
        self.run(&format!(
            "DELETE FROM dtm_barrier.barrier WHERE gid IN (SELECT {id} FROM {name}.onewrite_saga)"
        ))
        .await
    }

    async fn run(&mut self, sql: &str) -> Result<()> {
        match self {
            Self::Postgres(client) => client.batch_execute(sql).await.map_err(|error| {
                let denied = error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE);
                postgres::failed(&during(sql, denied, "CREATEDB"), &error)
            }),
            Self::Mysql(conn) => conn.query_drop(sql).await.map_err(|error| {
                let denied =
                    matches!(&error, mysql_async::Error::Server(said) if said.code == 1044);
                let context = during(sql, denied, "CREATE and DROP");
                mysql::failed(&context, error)
            }),
        }
    }
}

/// What was being done, and what to grant when it was denied.
fn during(sql: &str, denied: bool, right: &str) -> String {
    match denied {
        true => format!("{sql}: the user needs the right {right}"),
        false => sql.to_owned(),
    }
}

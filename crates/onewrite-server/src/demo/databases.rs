//! The databases of a run on PostgreSQL: one for each service.

use onewrite::{
    Result,
    postgres::{self, Options, tokio_postgres::error::SqlState},
};
use onewrite_shop::Role;

use super::{
    removal::{self, Rest},
    stage::{Run, named},
};

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
        let server = if has_database { url.to_owned() } else { named(url, "postgres") };
        let names = Role::ALL.map(|role| (role, run.name(role))).to_vec();
        Self { server, names, made: Vec::new() }
    }

    /// The URL of each service's database.
    pub(crate) fn urls(&self) -> Vec<(Role, String)> {
        self.names.iter().map(|(role, name)| (*role, named(&self.server, name))).collect()
    }

    /// Creates them. A connection of its own: databases are made outside of any store.
    pub(crate) async fn create(&mut self) -> Result<()> {
        let client = Options::from_url(&self.server)?.connect().await?;
        for (_, name) in &self.names {
            self.made.push(name.clone());
            // The names are our own: letters, digits and `_`.
            let created = client.batch_execute(&format!("CREATE DATABASE {name}")).await;
            created.map_err(|error| {
                let denied = error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE);
                let cure = if denied { ": the user needs the right CREATEDB" } else { "" };
                postgres::failed(&format!("create the database {name}{cure}"), &error)
            })?;
        }
        Ok(())
    }

    /// Drops those that were made, whoever is still connected.
    pub(crate) async fn drop_all(&self) -> Rest {
        removal::each(&self.made, async |name| self.drop(name).await, |name| command(name)).await
    }

    async fn drop(&self, name: &str) -> Result<()> {
        let client = Options::from_url(&self.server)?.connect().await?;
        let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        let dropped = client.batch_execute(&sql).await;
        dropped.map_err(|error| postgres::failed(&format!("drop the database {name}"), &error))
    }

    /// Those that were made, when they are to stay.
    pub(crate) fn kept(&self) -> Rest {
        Rest { commands: self.made.iter().map(|name| command(name)).collect(), why: None }
    }
}

/// What drops one by hand.
fn command(name: &str) -> String {
    format!("DROP DATABASE {name} WITH (FORCE);")
}

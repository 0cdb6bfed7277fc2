//! Where a demo plays: a folder, a database for each service, and the way events take between them.

use std::path::{Path, PathBuf};

use onewrite::{Code, Error, Result, stream};
use onewrite_shop::{Role, broker};

use super::{DemoArgs, databases::Databases, removal::Rest, streams::Streams};
use crate::{backends::scheme, report};

/// The word for databases in the demo's own folder.
pub(crate) const SQLITE: &str = "sqlite";

/// What tells the databases and streams of this run from those of others.
pub(crate) struct Run(String);

impl Run {
    fn new() -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        Self(id.chars().take(8).collect())
    }

    /// The name of what belongs to one service: lower-case letters, digits and `_`.
    pub(crate) fn name(&self, role: Role) -> String {
        format!("onewrite_demo_{}_{}", self.0, role.name())
    }
}

/// What a run uses and, unless it is to be kept, leaves nothing of.
pub(crate) struct Stage {
    folder: PathBuf,
    /// Removed with everything in it; none when the folder is the user's.
    temporary: Option<tempfile::TempDir>,
    stores: Vec<(Role, String)>,
    databases: Option<Databases>,
    streams: Option<Streams>,
}

impl Stage {
    /// Makes the folder, the databases and the streams.
    pub(crate) async fn set(args: &DemoArgs) -> Result<Self> {
        let run = Run::new();
        // Looked at first: with a wrong word nothing is begun.
        let databases = match scheme(&args.store) {
            "postgres" | "postgresql" | "mysql" | "mariadb" => {
                Some(Databases::at(&args.store, &run))
            }
            _ if is_word(&args.store, SQLITE) => None,
            _ => {
                return Err(unknown(
                    "store",
                    "--store sqlite, --store postgres://HOST:PORT and --store mysql://HOST:PORT",
                ));
            }
        };
        let streams = stream::is_stream(&args.broker).then(|| Streams::at(&args.broker, &run));
        if streams.is_none() && !is_word(&args.broker, broker::HTTP) {
            let known = "--broker http, --broker nats://HOST:PORT, --broker amqp://HOST:PORT, --broker redis://HOST:PORT and --broker kafka://HOST:PORT";
            return Err(unknown("broker", known));
        }
        let (folder, temporary) = folder(args)?;
        let file = |role: Role| folder.join(format!("{}.db", role.name()));
        let files = || Role::ALL.map(|role| (role, format!("sqlite:{}", file(role).display())));
        let stores = databases.as_ref().map_or_else(|| files().to_vec(), Databases::urls);
        let mut stage = Self { folder, temporary, stores, databases, streams };
        match stage.build().await {
            Ok(()) => Ok(stage),
            Err(error) => {
                stage.remove().await.tell();
                Err(error)
            }
        }
    }

    async fn build(&mut self) -> Result<()> {
        if let Some(things) = self.at_servers() {
            report::tell!("making {things}…");
        }
        if let Some(databases) = &mut self.databases {
            databases.create().await?;
        }
        if let Some(streams) = &mut self.streams {
            streams.create().await?;
        }
        Ok(())
    }

    /// What a run makes outside of its folder, if anything.
    fn at_servers(&self) -> Option<String> {
        let number = Role::ALL.len();
        match (&self.databases, &self.streams) {
            (None, None) => None,
            (Some(_), None) => Some(format!("{number} databases")),
            (None, Some(_)) => Some(format!("{number} streams")),
            (Some(_), Some(_)) => Some(format!("{number} databases and {number} streams")),
        }
    }

    /// The folder with the configuration.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The URL of each service's database.
    pub(crate) fn stores(&self) -> &[(Role, String)] {
        &self.stores
    }

    /// The URL of one service's database.
    pub(crate) fn store(&self, role: Role) -> &str {
        self.stores.iter().find(|(known, _)| *known == role).map_or("", |(_, url)| url)
    }

    /// The same as the configuration in the folder names it: the folder may be moved.
    pub(crate) fn configured_store(&self, role: Role) -> String {
        let url = self.store(role);
        let path = url.strip_prefix("sqlite:").map(Path::new);
        match path.and_then(|path| path.strip_prefix(&self.folder).ok()) {
            Some(inside) => format!("sqlite:{}", inside.display()),
            None => url.to_owned(),
        }
    }

    /// Where a service's events arrive: over HTTP at its processes, or from its stream.
    pub(crate) fn receives(&self, role: Role) -> &str {
        self.streams.as_ref().map_or(broker::HTTP, |streams| streams.url(role))
    }

    /// Where events for a service go, given where its processes listen.
    pub(crate) fn peers(&self, role: Role, listening: Vec<String>) -> Vec<String> {
        match &self.streams {
            Some(streams) => vec![streams.url(role).to_owned()],
            None => listening,
        }
    }

    /// Removes what was made for this run alone, unless the user named the folder to keep it in. Returns
    /// what is left.
    pub(crate) async fn clear(self) -> Rest {
        if self.temporary.is_some() {
            return self.remove().await;
        }
        let databases = self.databases.as_ref().map_or_else(Rest::default, Databases::kept);
        databases.and(self.streams.as_ref().map_or_else(Rest::default, Streams::kept))
    }

    /// Removes as much as can be removed.
    async fn remove(self) -> Rest {
        if let Some(things) = self.at_servers() {
            report::tell!("removing {things}…");
        }
        let mut rest = Rest::default();
        if let Some(databases) = &self.databases {
            rest = rest.and(databases.drop_all().await);
        }
        if let Some(streams) = &self.streams {
            rest = rest.and(streams.delete().await);
        }
        match self.temporary.map(tempfile::TempDir::close) {
            Some(Err(error)) => {
                let command = format!("rm -r {}", self.folder.display());
                let why = Error::new(Code::ReadOnly, "remove the demo's folder").with_source(error);
                rest.and(Rest { commands: vec![command], why: Some(why) })
            }
            _ => rest,
        }
    }
}

/// `url` with `name` in the place of its path.
pub(crate) fn named(url: &str, name: &str) -> String {
    let (address, query) = match url.split_once('?') {
        Some((address, query)) => (address, format!("?{query}")),
        None => (url, String::new()),
    };
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    let authority = rest.split('/').next().unwrap_or_default();
    format!("{scheme}://{authority}/{name}{query}")
}

fn is_word(text: &str, word: &str) -> bool {
    text.trim_end_matches(':') == word
}

fn unknown(what: &str, known: &str) -> Error {
    Error::new(Code::UnknownScheme, format!("the demo knows no such {what}; there is {known}"))
}

/// The user's folder, or one that goes away.
fn folder(args: &DemoArgs) -> Result<(PathBuf, Option<tempfile::TempDir>)> {
    if let Some(dir) = &args.dir {
        return Ok((prepared(dir)?, None));
    }
    let temporary = tempfile::Builder::new().prefix("onewrite-demo-").tempdir();
    let temporary = temporary.map_err(|error| {
        Error::new(Code::ReadOnly, "make a folder for the demo's databases").with_source(error)
    })?;
    Ok((temporary.path().to_owned(), Some(temporary)))
}

fn prepared(dir: &Path) -> Result<PathBuf> {
    let failed = |error: std::io::Error| {
        Error::new(Code::ReadOnly, format!("use the folder {}", dir.display())).with_source(error)
    };
    std::fs::create_dir_all(dir).map_err(failed)?;
    if std::fs::read_dir(dir).map_err(failed)?.next().is_some() {
        return Err(Error::new(
            Code::InvalidInput,
            format!(
                "the folder {} is not empty: the demo starts with new databases",
                dir.display()
            ),
        ));
    }
    dir.canonicalize().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_its_own_path_on_the_same_server() {
        assert_eq!(named("nats://me:pw@host:4222", "a"), "nats://me:pw@host:4222/a");
        assert_eq!(named("postgres://host/shop?x=y", "a"), "postgres://host/a?x=y");
    }
}

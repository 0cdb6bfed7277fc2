//! Connecting: URL, TLS, and the settings that the promises rest on.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use mysql_async::{Conn, Opts, OptsBuilder, Pool, PoolConstraints, PoolOpts, SslOpts};
use onewrite_core::{
    Code, Error, Result, Text, event::EVENT_BYTES_MAX_DEFAULT, position::PARTITIONS_DEFAULT,
    sabotage::Sabotage, store::Copied,
};

use crate::error::unreachable;

/// The engine's own connections of one process at most; the user's pool is the user's.
const CONNECTIONS_MAX: usize = 16;

/// How long a connection is waited for.
pub(crate) const WAIT: Duration = Duration::from_secs(30);

/// Set on each connection. What is looked at again under a lock must be seen as it is then; times are
/// told in UTC; text that does not fit is refused, not cut.
const PROMISES: [&str; 3] = [
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET time_zone = '+00:00', innodb_lock_wait_timeout = 10, sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
    "SET NAMES utf8mb4",
];

/// A process that stands still in the middle of a transaction must not hold its locks for long. MariaDB
/// ends it for that; MySQL ends any connection that is idle for so long.
fn idle(purpose: Use, is_mariadb: bool) -> String {
    let seconds = if purpose == Use::Engine { 3 } else { 30 };
    match is_mariadb {
        true => format!("SET idle_transaction_timeout = {seconds}"),
        false => format!("SET wait_timeout = {}", seconds.max(IDLE.as_secs() + 5)),
    }
}

/// What makes a session one for this purpose.
pub(crate) fn settings(purpose: Use, is_mariadb: bool) -> Vec<String> {
    let mut settings = PROMISES.map(str::to_owned).to_vec();
    settings.push(idle(purpose, is_mariadb));
    if purpose == Use::Work {
        // What a handler writes after the server undid its transaction must not be committed by itself.
        settings.push("SET autocommit = 0".to_owned());
    }
    settings
}

/// How long a server may take to answer at first.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A pooled connection that was not used for so long is closed.
const IDLE: Duration = Duration::from_secs(20);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// The engine's own statements.
    Engine,
    /// Handlers and the user's writes.
    Work,
}

/// How to open a store.
#[derive(Debug, Clone)]
pub struct Options {
    /// Server, database and user.
    pub server: Opts,
    /// Whether a missing schema is created.
    pub create: bool,
    /// The source's name for a new schema; the database's name by default.
    pub source: Option<Text>,
    /// Partitions of a new schema; fixed afterwards.
    pub partitions: u16,
    /// The largest event accepted, in bytes, for a new schema.
    pub event_bytes_max: usize,
    /// What a database on another server, or of another name, is taken for.
    pub copied: Copied,
    /// Defects planted by tests.
    pub sabotage: Sabotage,
}

impl Options {
    /// Reads a URL of the form `mysql://user:password@host:port/database` or `mariadb://…`.
    ///
    /// `sslmode` may be `disable` or `verify-full`; without it, everything but loopback is reached over
    /// TLS, and the server's certificate is verified. `sslrootcert` names a file with the authority's
    /// certificates.
    ///
    /// # Errors
    /// [`Code::UnknownScheme`] for another scheme, [`Code::InvalidConfig`] for what cannot be read.
    pub fn from_url(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("mysql://").or_else(|| url.strip_prefix("mariadb://"));
        let Some(rest) = rest else {
            let context = "this store opens `mysql://` and `mariadb://` URLs";
            return Err(Error::new(Code::UnknownScheme, context));
        };
        let (plain, tls) = Tls::split(rest);
        let read = Opts::from_url(&format!("mysql://{plain}")).map_err(|error| {
            Error::new(Code::InvalidConfig, "read the database's URL").with_source(error)
        })?;
        if read.db_name().is_none_or(str::is_empty) {
            return Err(Error::new(Code::InvalidConfig, "the URL names no database"));
        }
        let host = read.ip_or_hostname();
        let near = host == "localhost"
            || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let ssl = tls.options(near)?;
        let builder = OptsBuilder::from_opts(read)
            .ssl_opts(ssl)
            .prefer_socket(false)
            .client_found_rows(true)
            .stmt_cache_size(100)
            .tcp_keepalive(Some(Duration::from_secs(30)));
        Ok(Self {
            server: builder.into(),
            create: true,
            source: None,
            partitions: PARTITIONS_DEFAULT,
            event_bytes_max: EVENT_BYTES_MAX_DEFAULT,
            copied: Copied::Refuse,
            sabotage: Sabotage::from_env(),
        })
    }

    /// A connection of its own, with the server's own settings.
    ///
    /// # Errors
    /// [`Code::StoreUnreachable`], with cause and cure.
    pub async fn connect(&self) -> Result<Conn> {
        self.within(CONNECT_WITHIN, Conn::new(self.server.clone())).await
    }

    /// What connecting comes to, in time.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        connecting: impl Future<Output = mysql_async::Result<T>>,
    ) -> Result<T> {
        let (host, port) = (self.server.ip_or_hostname(), self.server.tcp_port());
        let place = format!("connect to {host}:{port}/{}", self.database());
        match tokio::time::timeout(limit, connecting).await {
            Ok(connected) => connected.map_err(|error| unreachable(&place, error)),
            Err(_) => {
                let context = format!("{place}: nobody answered, or no connection became free");
                Err(Error::new(Code::StoreUnreachable, context))
            }
        }
    }

    pub(crate) fn database(&self) -> &str {
        self.server.db_name().unwrap_or_default()
    }

    /// The source's name for a new schema.
    pub(crate) fn source_name(&self) -> Text {
        self.source.clone().unwrap_or_else(|| self.database().to_owned().into())
    }

    pub(crate) fn pool(&self, purpose: Use, is_mariadb: bool) -> Pool {
        let limits = PoolConstraints::new(0, CONNECTIONS_MAX).unwrap_or_default();
        let pool = PoolOpts::default()
            .with_constraints(limits)
            .with_inactive_connection_ttl(IDLE)
            .with_ttl_check_interval(IDLE / 4)
            // It would forget the statements that are prepared.
            .with_reset_connection(false);
        let settings = settings(purpose, is_mariadb);
        let builder = OptsBuilder::from_opts(self.server.clone());
        Pool::new(builder.pool_opts(pool).setup(settings))
    }
}

/// What the URL says about TLS, in words that the driver does not know.
#[derive(Debug, Default)]
struct Tls {
    mode: Option<String>,
    root: Option<PathBuf>,
}

impl Tls {
    /// Takes it out of a URL.
    fn split(url: &str) -> (String, Self) {
        let mut tls = Self::default();
        let Some((base, query)) = url.split_once('?') else { return (url.to_owned(), tls) };
        let mut rest = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", value)) => tls.mode = Some(value.to_owned()),
                Some(("sslrootcert", value)) => tls.root = Some(PathBuf::from(value)),
                _ => rest.push(pair),
            }
        }
        let plain =
            if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
        (plain, tls)
    }

    fn options(self, near: bool) -> Result<Option<SslOpts>> {
        match self.mode.as_deref() {
            Some("disable") => return Ok(None),
            None if near && self.root.is_none() => return Ok(None),
            Some("require" | "verify-full" | "verify-ca") | None => {}
            Some(other) => {
                let said = other.escape_debug();
                let context =
                    format!("`sslmode={said}` is not known; say `disable` or `verify-full`");
                return Err(Error::new(Code::InvalidConfig, context));
            }
        }
        let roots = self.root.map(|path| vec![path.into()]).unwrap_or_default();
        Ok(Some(
            SslOpts::default()
                .with_disable_built_in_roots(!roots.is_empty())
                .with_root_certs(roots),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_what_is_far_away_needs_tls() {
        let near = Options::from_url("mysql://me:secret@127.0.0.1:3307/shop").unwrap();
        assert!(near.server.ssl_opts().is_none());
        assert_eq!(near.source_name(), "shop");
        let far = Options::from_url("mariadb://me@db.example.org/shop").unwrap();
        assert!(far.server.ssl_opts().is_some());
        let plain = Options::from_url("mysql://me@db.example.org/shop?sslmode=disable").unwrap();
        assert!(plain.server.ssl_opts().is_none());
        for (wrong, code) in [
            ("postgres://x/y", Code::UnknownScheme),
            ("mysql://me@host", Code::InvalidConfig),
            ("mysql://me@host/db?sslmode=maybe", Code::InvalidConfig),
            ("mysql://me@host:none/db", Code::InvalidConfig),
        ] {
            assert_eq!(Options::from_url(wrong).unwrap_err().code(), code, "{wrong}");
        }
    }
}

//! Connecting: URL, TLS, and the settings that the promises rest on.

use std::{path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod};
use onewrite_core::{
    Code, Error, Result, Text, event::EVENT_BYTES_MAX_DEFAULT, position::PARTITIONS_DEFAULT,
    sabotage::Sabotage, store::Copied,
};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use tokio_postgres::{
    Config, NoTls,
    config::{Host, SslMode},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error;

/// The engine's own connections of one process at most; the user's pool is the user's.
const CONNECTIONS_MAX: usize = 16;

/// Set on each of the engine's connections. Its plans follow an index whatever the statistics say, for
/// a log that has just been emptied or filled has none; and a process that stands still must neither hold
/// locks for long nor have others wait for them for ever.
const ENGINE: &str = "SET jit = off; SET enable_seqscan = off; SET enable_bitmapscan = off; \
    SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '3s'";

/// Set on the connections that run handlers: their statements are the user's. A handler that waits for
/// something else for longer, in the middle of its transaction, is taken for one that stands still.
const WORK: &str = "SET idle_in_transaction_session_timeout = '30s'";

/// Set on both, whatever the server, the database or the role says: what is looked at again under a lock
/// must be seen as it is then, and what is reported must be on disk.
const PROMISES: &str = "SET default_transaction_isolation = 'read committed'; \
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

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
    pub config: Config,
    /// Certificates of the authorities that the server's own is checked against, instead of the system's.
    pub root_certificates: Option<PathBuf>,
    /// Whether a missing schema is created.
    pub create: bool,
    /// The source's name for a new schema; the database's name by default.
    pub source: Option<Text>,
    /// Partitions of a new schema; fixed afterwards.
    pub partitions: u16,
    /// The largest event accepted, in bytes, for a new schema.
    pub event_bytes_max: usize,
    /// What a database with another identity is taken for.
    pub copied: Copied,
    /// Defects planted by tests.
    pub sabotage: Sabotage,
}

impl Options {
    /// Reads a URL of the form `postgres://user:password@host:port/database`.
    ///
    /// `sslmode` may be `disable` or `verify-full`; without it, everything but loopback and a Unix
    /// socket is reached over TLS, and the server's certificate is verified. `sslrootcert` names a
    /// file with the authority's certificates.
    ///
    /// # Errors
    /// [`Code::UnknownScheme`] for another scheme, [`Code::InvalidConfig`] for what cannot be read.
    pub fn from_url(url: &str) -> Result<Self> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(Error::new(Code::UnknownScheme, "this store opens `postgres://` URLs"));
        }
        let (plain, mode, root_certificates) = split_tls(url);
        let mut config = Config::from_str(&plain).map_err(|error| {
            Error::new(Code::InvalidConfig, "read the PostgreSQL URL").with_source(error)
        })?;
        config.ssl_mode(match mode.as_deref() {
            Some("disable") => SslMode::Disable,
            Some("require" | "verify-full" | "verify-ca") => SslMode::Require,
            None if is_near(&config) && root_certificates.is_none() => SslMode::Disable,
            None => SslMode::Require,
            Some(other) => {
                return Err(Error::new(
                    Code::InvalidConfig,
                    format!(
                        "`sslmode={}` is not known; say `disable` or `verify-full`",
                        other.escape_debug()
                    ),
                ));
            }
        });
        if config.get_dbname().is_none_or(str::is_empty) {
            return Err(Error::new(Code::InvalidConfig, "the PostgreSQL URL names no database"));
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(10));
        }
        config.keepalives_idle(Duration::from_secs(30));
        Ok(Self {
            config,
            root_certificates,
            create: true,
            source: None,
            partitions: PARTITIONS_DEFAULT,
            event_bytes_max: EVENT_BYTES_MAX_DEFAULT,
            copied: Copied::Refuse,
            sabotage: Sabotage::from_env(),
        })
    }

    /// The source's name for a new schema.
    pub(crate) fn source_name(&self) -> Text {
        let named = || self.config.get_dbname().unwrap_or("onewrite").to_owned().into();
        self.source.clone().unwrap_or_else(named)
    }

    pub(crate) fn pool(&self, purpose: Use) -> Result<Pool> {
        let settings = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let mut config = self.config.clone();
        if config.get_application_name().is_none() {
            config.application_name("onewrite");
        }
        let manager = if self.config.get_ssl_mode() == SslMode::Disable {
            Manager::from_config(config, NoTls, settings)
        } else {
            Manager::from_config(config, self.tls()?, settings)
        };
        let session = if purpose == Use::Engine { ENGINE } else { WORK };
        let prepare = Hook::async_fn(move |client, _| {
            Box::pin(async move {
                client.batch_execute(PROMISES).await.map_err(HookError::Backend)?;
                client.batch_execute(session).await.map_err(HookError::Backend)
            })
        });
        Pool::builder(manager)
            .max_size(CONNECTIONS_MAX)
            .wait_timeout(Some(Duration::from_secs(30)))
            .runtime(deadpool_postgres::Runtime::Tokio1)
            .post_create(prepare)
            .build()
            .map_err(|error| {
                Error::new(Code::InvalidConfig, "set up the connection pool").with_source(error)
            })
    }

    /// A connection of its own, for listening. Its task ends with the connection and forwards what it
    /// is notified of.
    pub(crate) async fn listen(
        &self,
        notified: impl Fn() + Send + 'static,
    ) -> Result<tokio_postgres::Client> {
        let failed = |error| error::unreachable(&self.place(), &error);
        if self.config.get_ssl_mode() == SslMode::Disable {
            let (client, connection) = self.config.connect(NoTls).await.map_err(failed)?;
            tokio::spawn(forward(connection, notified));
            Ok(client)
        } else {
            let (client, connection) = self.config.connect(self.tls()?).await.map_err(failed)?;
            tokio::spawn(forward(connection, notified));
            Ok(client)
        }
    }

    /// A connection of its own, outside of any store. It ends when the client is dropped.
    ///
    /// # Errors
    /// [`Code::StoreUnreachable`] with the cause, [`Code::InvalidConfig`] for certificates that cannot be
    /// read.
    pub async fn connect(&self) -> Result<tokio_postgres::Client> {
        self.listen(|| {}).await
    }

    /// Where the database is: hosts, ports and its name, without user and password.
    pub(crate) fn place(&self) -> String {
        let (hosts, ports) = (self.config.get_hosts(), self.config.get_ports());
        let servers = hosts.iter().enumerate().map(|(index, host)| {
            let host = match host {
                Host::Tcp(name) => name.clone(),
                Host::Unix(path) => path.display().to_string(),
            };
            // One port stands for all hosts.
            let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
            format!("{host}:{port}")
        });
        let servers: Vec<String> = servers.collect();
        format!("{}/{}", servers.join(","), self.config.get_dbname().unwrap_or_default())
    }

    fn tls(&self) -> Result<MakeRustlsConnect> {
        let mut roots = RootCertStore::empty();
        let invalid = |what: String| Error::new(Code::InvalidConfig, what);
        if let Some(path) = &self.root_certificates {
            let pem = std::fs::read(path).map_err(|error| {
                invalid(format!("read the certificates in {}", path.display())).with_source(error)
            })?;
            use rustls::pki_types::pem::PemObject as _;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                certificate
                    .map_err(|error| error.to_string())
                    .and_then(|der| roots.add(der).map_err(|error| error.to_string()))
                    .map_err(|error| {
                        invalid(format!("{} holds no valid certificate", path.display()))
                            .with_source(error)
                    })?;
            }
        } else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid("set up TLS".into()).with_source(error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(MakeRustlsConnect::new(config))
    }
}

async fn forward<S, T>(mut connection: tokio_postgres::Connection<S, T>, notified: impl Fn())
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        match std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(tokio_postgres::AsyncMessage::Notification(_))) => notified(),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return notified(),
        }
    }
}

/// Takes out of a URL what `tokio-postgres` does not know.
fn split_tls(url: &str) -> (String, Option<String>, Option<PathBuf>) {
    let Some((base, query)) = url.split_once('?') else { return (url.to_owned(), None, None) };
    let (mut mode, mut root, mut rest) = (None, None, Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sslmode", value)) => mode = Some(value.to_owned()),
            Some(("sslrootcert", value)) => root = Some(PathBuf::from(value)),
            _ => rest.push(pair),
        }
    }
    let query = if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) };
    (format!("{base}{query}"), mode, root)
}

/// Whether the server is this very machine.
fn is_near(config: &Config) -> bool {
    config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => {
            name == "localhost"
                || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        Host::Unix(_) => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_what_is_far_away_needs_tls() {
        let near = Options::from_url("postgres://me:secret@127.0.0.1:5433/shop").unwrap();
        assert_eq!(near.config.get_ssl_mode(), SslMode::Disable);
        assert_eq!((&*near.source_name(), &*near.place()), ("shop", "127.0.0.1:5433/shop"));
        let far =
            Options::from_url("postgresql://me@db.example.org/shop?application_name=x").unwrap();
        assert_eq!(far.config.get_ssl_mode(), SslMode::Require);
        assert_eq!(far.place(), "db.example.org:5432/shop");
        let plain = Options::from_url("postgres://me@db.example.org/shop?sslmode=disable").unwrap();
        assert_eq!(plain.config.get_ssl_mode(), SslMode::Disable);
        for (wrong, code) in [
            ("mysql://x/y", Code::UnknownScheme),
            ("postgres://me@host", Code::InvalidConfig),
            ("postgres://me@host/db?sslmode=maybe", Code::InvalidConfig),
            ("postgres://me@host:none/db", Code::InvalidConfig),
        ] {
            assert_eq!(Options::from_url(wrong).unwrap_err().code(), code, "{wrong}");
        }
    }
}

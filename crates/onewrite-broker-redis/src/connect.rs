//! Connections to the server: one that everything shares which answers at once, and one for each reader.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use onewrite_core::{Code, Error, Result};
use onewrite_lanes::url::invalid;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, FromRedisValue,
    IntoConnectionInfo, Pipeline, RedisConnectionInfo, RedisError, RedisResult, TlsCertificates,
    aio::{MultiplexedConnection, PubSub},
};

use crate::StreamOptions;

/// The server. A connection that breaks is replaced with the next question.
pub(crate) struct Server {
    client: Client,
    address: String,
    timeout: Duration,
    shared: Mutex<Option<MultiplexedConnection>>,
}

impl Server {
    /// Connects.
    ///
    /// # Errors
    /// [`Code::SinkUnreachable`]; [`Code::InvalidConfig`] for refused credentials or a file of certificates
    /// that cannot be read.
    pub(crate) async fn connect(options: &StreamOptions) -> Result<Self> {
        let StreamOptions { host, port, timeout, .. } = options;
        let (client, address) = (client(options)?, format!("{host}:{port}"));
        let server = Self { client, address, timeout: *timeout, shared: Mutex::default() };
        server.shared().await?;
        Ok(server)
    }

    /// Its name and port, for messages.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// How long any answer may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A connection of its own, for questions that are answered `later` than others.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub(crate) async fn line(&self, later: Duration) -> Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout + later));
        let line = self.client.get_multiplexed_async_connection_with_config(&config).await;
        line.map_err(|error| self.failed("cannot be connected to", error))
    }

    /// A connection that hears what is published on a channel.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub(crate) async fn subscribe(&self, channel: &str) -> Result<PubSub> {
        let subscribing = async {
            let mut subscriber = self.client.get_async_pubsub().await?;
            subscriber.subscribe(channel).await?;
            Ok(subscriber)
        };
        match tokio::time::timeout(self.timeout, subscribing).await {
            Ok(done) => done.map_err(|error: RedisError| {
                self.failed(&format!("does not let its channel `{channel}` be heard"), error)
            }),
            Err(_) => Err(Error::new(
                Code::SinkUnreachable,
                format!("the Redis server {} does not answer", self.address),
            )),
        }
    }

    /// Asks one thing; `what` is said of the server should it fail.
    ///
    /// # Errors
    /// As [`Self::failed`] reads the answer.
    pub(crate) async fn ask<T: FromRedisValue>(&self, what: &str, command: &Cmd) -> Result<T> {
        let mut line = self.shared().await?;
        command.query_async(&mut line).await.map_err(|error| self.failed(what, error))
    }

    /// Asks several things at once; the first that fails counts.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(crate) async fn ask_all<T: FromRedisValue>(
        &self,
        what: &str,
        commands: &Pipeline,
    ) -> Result<T> {
        let mut line = self.shared().await?;
        commands.query_async(&mut line).await.map_err(|error| self.failed(what, error))
    }

    /// Asks for what the user may not be allowed to ask, or the server may not know: `None` then.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(crate) async fn allowed<T: FromRedisValue>(
        &self,
        what: &str,
        command: &Cmd,
    ) -> Result<Option<T>> {
        let mut line = self.shared().await?;
        match command.query_async(&mut line).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if matches!(error.code(), Some("NOPERM" | "ERR")) => Ok(None),
            Err(error) => Err(self.failed(what, error)),
        }
    }

    async fn shared(&self) -> Result<MultiplexedConnection> {
        let kept = self.lock().clone();
        match kept {
            Some(line) => Ok(line),
            None => {
                let line = self.line(Duration::ZERO).await?;
                Ok(self.lock().insert(line).clone())
            }
        }
    }

    /// What went wrong, in our terms. A connection that is of no more use is not used again.
    pub(crate) fn failed(&self, what: &str, error: RedisError) -> Error {
        let is_over = error.is_unrecoverable_error() || error.is_timeout();
        // A primary that became a replica: its address may lead elsewhere by now.
        if is_over || error.code() == Some("READONLY") {
            *self.lock() = None;
        }
        let (code, cure) = meaning(&error);
        let context = format!("the Redis server {} {what}{cure}", self.address);
        Error::new(code, context).with_source(error)
    }

    /// A panic while the lock was held leaves nothing half done here.
    fn lock(&self) -> MutexGuard<'_, Option<MultiplexedConnection>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an error of the server says about our act, and what to do about it.
fn meaning(error: &RedisError) -> (Code, &'static str) {
    if error.kind() == ErrorKind::AuthenticationFailed {
        return (Code::InvalidConfig, CREDENTIALS);
    }
    match error.code() {
        Some("NOAUTH" | "WRONGPASS") => (Code::InvalidConfig, CREDENTIALS),
        Some("NOPERM") => {
            (Code::InvalidConfig, ": its user lacks a right; see the rights in the book's page")
        }
        Some("WRONGTYPE") => (
            Code::InvalidConfig,
            ": the stream's name belongs to a key of another type; name the stream otherwise, or remove the key",
        ),
        Some("MOVED" | "ASK" | "CROSSSLOT") => (
            Code::InvalidConfig,
            ": it is a node of a Redis Cluster, whose redirections are not followed here",
        ),
        Some("OOM") => (
            Code::SinkRefused,
            ": its memory is full; raise it (`CONFIG SET maxmemory …`), or remove the group of a receiver that is gone (`XINFO GROUPS STREAM:LANE`, `XGROUP DESTROY`), for what a group has not acknowledged stays; delivery goes on by itself",
        ),
        Some("MISCONF") => {
            (Code::SinkRefused, ": it cannot write to its disk; delivery goes on by itself")
        }
        Some("NOREPLICAS") => (
            Code::SinkRefused,
            ": fewer replicas follow it than `min-replicas-to-write` asks for; delivery goes on by itself",
        ),
        Some("LOADING" | "MASTERDOWN" | "READONLY" | "BUSY" | "TRYAGAIN" | "CLUSTERDOWN") => {
            (Code::SinkUnreachable, "")
        }
        Some(_) => (Code::SinkRefused, ""),
        None => (Code::SinkUnreachable, ""),
    }
}

const CREDENTIALS: &str = ": it refuses these credentials; give its URL a valid `user:password@`";

fn client(options: &StreamOptions) -> Result<Client> {
    let StreamOptions { host, port, tls, tls_ca, .. } = options;
    let (host, port) = (host.clone(), *port);
    let refused = |error: RedisError| {
        invalid("the address of a Redis server cannot be used").with_source(error)
    };
    if *tls != Some(true) {
        return Client::open(
            with_login(ConnectionAddr::Tcp(host, port), options).map_err(refused)?,
        )
        .map_err(refused);
    }
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // The client panics where a program links two and has chosen none. Another thread may be first.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let at = ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None };
    let root_cert = tls_ca.as_ref().map(std::fs::read).transpose().map_err(|error| {
        invalid("the file that `tls_ca` names cannot be read").with_source(error)
    })?;
    let certificates = TlsCertificates { client_tls: None, root_cert };
    Client::build_with_tls(with_login(at, options).map_err(refused)?, certificates).map_err(refused)
}

fn with_login(
    address: ConnectionAddr,
    options: &StreamOptions,
) -> RedisResult<redis::ConnectionInfo> {
    let mut login = RedisConnectionInfo::default().set_db(options.database);
    if let Some(user) = &options.user {
        login = login.set_username(user);
    }
    if let Some(password) = &options.password {
        login = login.set_password(password);
    }
    Ok(address.into_connection_info()?.set_redis_settings(login))
}

//! The connection to the server, made anew when it is needed and gone.

use std::{future::Future, time::Duration};

use lapin::{
    Channel, Connection, ConnectionProperties, ErrorKind,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
    tcp::OwnedTLSConfig,
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo},
};
use onewrite_core::{Code, Error, Result};
use onewrite_lanes::url::invalid;
use tokio::sync::Mutex;

use crate::StreamOptions;

/// A server, and at most one connection to it.
///
/// Whoever publishes and whoever consumes must not share one: a server that is short of memory or disk
/// reads nothing more from connections that publish, acknowledgements included.
pub(crate) struct Server {
    uri: AMQPUri,
    name: &'static str,
    tls_ca: Option<String>,
    address: String,
    timeout: Duration,
    kept: Mutex<Option<Connection>>,
}

impl Server {
    /// A server by its options. Nothing is connected yet; `name` is what operators see.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] for a file of certificates that cannot be read.
    pub(crate) fn new(options: &StreamOptions, name: &'static str) -> Result<Self> {
        let StreamOptions { host, port, timeout, .. } = options;
        let tls_ca = options.tls_ca.as_ref().map(std::fs::read_to_string).transpose();
        let tls_ca = tls_ca.map_err(|error| {
            invalid("the file that `tls_ca` names cannot be read").with_source(error)
        })?;
        let (uri, address) = (uri(options), format!("{host}:{port}"));
        Ok(Self { uri, name, tls_ca, address, timeout: *timeout, kept: Mutex::default() })
    }

    /// Its name and port, for messages.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// How long any answer may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A channel, on a new connection if there is none.
    ///
    /// # Errors
    /// [`Code::SinkUnreachable`]; [`Code::InvalidConfig`] for refused credentials or an unknown virtual host.
    pub(crate) async fn channel(&self) -> Result<Channel> {
        let mut kept = self.kept.lock().await;
        if kept.as_ref().is_none_or(|connection| !connection.status().connected()) {
            *kept = Some(self.bounded("cannot be connected to", self.connect()).await?);
        }
        let Some(connection) = kept.as_ref() else { return Err(self.silent("is not connected")) };
        let channel = self.bounded("opens no channel", connection.create_channel()).await;
        if channel.is_err() {
            *kept = None;
        }
        channel
    }

    /// Refuses to publish while the server lets nobody do so on this connection: what is sent then waits in
    /// this process, and more with every attempt.
    ///
    /// # Errors
    /// [`Code::SinkUnreachable`] with the cure.
    pub(crate) async fn check_unblocked(&self) -> Result<()> {
        let kept = self.kept.lock().await;
        if !kept.as_ref().is_some_and(|connection| connection.status().blocked()) {
            return Ok(());
        }
        let context = format!(
            "the RabbitMQ server {} lets nobody publish: it is short of memory or disk (`rabbitmq-diagnostics alarms`); delivery goes on by itself",
            self.address
        );
        Err(Error::new(Code::SinkUnreachable, context))
    }

    /// Waits for an answer; `what` is said of the server should it fail.
    ///
    /// # Errors
    /// As [`Self::failed`] reads the answer; [`Code::SinkUnreachable`] when none comes in time.
    pub(crate) async fn bounded<T>(
        &self,
        what: &str,
        asking: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.timeout, asking).await {
            Ok(done) => done.map_err(|error| self.failed(what, error)),
            Err(_) => Err(self.silent(what)),
        }
    }

    fn silent(&self, what: &str) -> Error {
        let context = format!("the RabbitMQ server {} {what}, or does not answer", self.address);
        Error::new(Code::SinkUnreachable, context)
    }

    /// What went wrong, in our terms.
    pub(crate) fn failed(&self, what: &str, error: lapin::Error) -> Error {
        let (code, cure) = meaning(&error);
        let context = format!("the RabbitMQ server {} {what}{cure}", self.address);
        Error::new(code, context).with_source(error)
    }

    async fn connect(&self) -> lapin::Result<Connection> {
        // Its default is whatever TLS the whole program has chosen, if it has.
        if self.uri.scheme == AMQPScheme::AMQPS
            && rustls::crypto::CryptoProvider::get_default().is_none()
        {
            // Another thread may be first.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let properties = ConnectionProperties::default().with_connection_name(self.name.into());
        let tls = OwnedTLSConfig { identity: None, cert_chain: self.tls_ca.clone() };
        let runtime = lapin::runtime::default_runtime()?;
        Connection::connect_uri_with_config(self.uri.clone(), properties, tls, runtime).await
    }
}

fn uri(options: &StreamOptions) -> AMQPUri {
    let is_tls = options.tls == Some(true);
    AMQPUri {
        scheme: if is_tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: options.user.clone(),
                password: options.password.clone(),
            },
            host: options.host.clone(),
            port: options.port,
        },
        vhost: options.vhost.clone(),
        query: AMQPQueryString {
            heartbeat: Some(u16::try_from(options.heartbeat.as_secs()).unwrap_or(u16::MAX).max(1)),
            connection_timeout: u64::try_from(options.timeout.as_millis()).ok(),
            ..AMQPQueryString::default()
        },
    }
}

/// Whether an error is the server's answer with this code.
pub(crate) fn is_soft(error: &lapin::Error, code: &AMQPSoftError) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(said)
        if matches!(said.kind(), AMQPErrorKind::Soft(soft) if soft == code))
}

/// What an error of the server says about our act, and what to do about it.
fn meaning(error: &lapin::Error) -> (Code, &'static str) {
    let ErrorKind::ProtocolError(said) = error.kind() else {
        return (Code::SinkUnreachable, "");
    };
    match said.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => (
            Code::InvalidConfig,
            ": it refuses these credentials, or the user lacks a right; give its URL a valid `user:password@`, and see the rights in the book's page",
        ),
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => (
            Code::InvalidConfig,
            ": the virtual host is unknown or not this user's (`rabbitmqctl add_vhost`, `set_permissions`)",
        ),
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND | AMQPSoftError::PRECONDITIONFAILED) => {
            (Code::SinkRefused, "")
        }
        _ => (Code::SinkUnreachable, ""),
    }
}

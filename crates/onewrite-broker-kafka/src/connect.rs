//! Clients of the servers: how they are set, what they say, and what their errors mean for us.
//!
//! librdkafka finds its way to the servers by itself, again and again, and says nothing while it has
//! none: every question here has a limit, and what went wrong meanwhile is kept to be told.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use onewrite_core::{Code, Error, Result};
use onewrite_lanes::url::invalid;
use rdkafka::{
    ClientConfig, ClientContext,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{DeliveryResult, ProducerContext},
};

use crate::StreamOptions;

/// The longest that servers are given to create or to describe something.
pub(crate) const ADMIN_TIMEOUT_MAX: Duration = Duration::from_secs(2);

/// What a client's background says: it goes to the log, and the last error is kept.
#[derive(Debug, Clone, Default)]
pub(crate) struct Talk(Arc<Mutex<Option<RDKafkaErrorCode>>>);

impl Talk {
    /// The last error, once.
    pub(crate) fn last(&self) -> Option<RDKafkaErrorCode> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for Talk {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::warn!(fac, "librdkafka: {log_message}");
            }
            _ => tracing::debug!(fac, "librdkafka: {log_message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, "librdkafka: {reason}");
        let Some(code) = error.rdkafka_error_code() else { return };
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // That all servers are down follows from what was said about each of them.
        if code != RDKafkaErrorCode::AllBrokersDown || last.is_none() {
            *last = Some(code);
        }
    }
}

impl ConsumerContext for Talk {}

impl ProducerContext for Talk {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// The servers.
#[derive(Debug)]
pub(crate) struct Server {
    config: ClientConfig,
    address: String,
    timeout: Duration,
}

impl Server {
    /// Takes the settings over; nothing is connected yet.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] for TLS or a proof that this program was built without.
    pub(crate) fn new(options: &StreamOptions) -> Result<Self> {
        let config = config(options)?;
        let address = config.get("bootstrap.servers").unwrap_or_default().to_owned();
        Ok(Self { config, address, timeout: options.timeout })
    }

    /// Names and ports, for messages.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// How long any answer may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What every client is set to.
    pub(crate) fn config(&self) -> ClientConfig {
        self.config.clone()
    }

    /// A client that creates and describes.
    pub(crate) fn admin(&self) -> Result<AdminClient<DefaultClientContext>, KafkaError> {
        self.config.create()
    }

    /// With the limits of its questions.
    pub(crate) fn admin_options(&self) -> AdminOptions {
        let timeout = Some(self.timeout.min(ADMIN_TIMEOUT_MAX));
        AdminOptions::new().request_timeout(timeout).operation_timeout(timeout)
    }

    /// What went wrong, in our terms.
    pub(crate) fn failed(&self, what: &str, error: KafkaError) -> Error {
        self.failed_after(what, error, None)
    }

    /// The same, with what was said before: a question that found no server only says that it took too long.
    pub(crate) fn failed_after(
        &self,
        what: &str,
        error: KafkaError,
        said: Option<RDKafkaErrorCode>,
    ) -> Error {
        let own = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        let (code, cure) = meaning(said.unwrap_or(own));
        let context = format!("the Kafka server {} {what}{cure}", self.address);
        Error::new(code, context).with_source(error)
    }
}

/// What an error says about our act, and what to do about it.
pub(crate) fn meaning(code: RDKafkaErrorCode) -> (Code, &'static str) {
    use RDKafkaErrorCode as Kafka;
    match code {
        Kafka::Authentication | Kafka::SaslAuthenticationFailed | Kafka::IllegalSASLState => (
            Code::InvalidConfig,
            ": it refuses these credentials; give its URL a valid `user:password@`",
        ),
        Kafka::UnsupportedSASLMechanism => {
            (Code::InvalidConfig, ": it does not know this proof; give its URL another `sasl=`")
        }
        Kafka::SSL => (
            Code::InvalidConfig,
            ": TLS fails; see that the port speaks it and that `tls_ca` names who signed its certificate",
        ),
        Kafka::TopicAuthorizationFailed
        | Kafka::GroupAuthorizationFailed
        | Kafka::ClusterAuthorizationFailed => {
            (Code::InvalidConfig, ": its user lacks a right; see the rights in the book's page")
        }
        Kafka::NotEnoughReplicas | Kafka::NotEnoughReplicasAfterAppend => (
            Code::SinkRefused,
            ": fewer replicas follow than `min.insync.replicas` asks for; delivery goes on by itself",
        ),
        Kafka::UnknownTopicOrPartition | Kafka::UnknownTopic | Kafka::UnknownPartition => (
            Code::SinkRefused,
            ": there is no such topic; it was removed, and is made anew when this sink is opened again",
        ),
        Kafka::InvalidMessage | Kafka::PolicyViolation | Kafka::InvalidRecord => {
            (Code::SinkRefused, "")
        }
        _ => (Code::SinkUnreachable, ""),
    }
}

fn config(options: &StreamOptions) -> Result<ClientConfig> {
    let mut config = ClientConfig::new();
    let written = |(host, port): &(String, u16)| match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    let servers: Vec<String> = options.servers.iter().map(written).collect();
    config.set("bootstrap.servers", servers.join(","));
    config.set("client.id", "onewrite");
    config.set("reconnect.backoff.ms", "50").set("reconnect.backoff.max.ms", "1000");
    config.set("retry.backoff.ms", "50").set("retry.backoff.max.ms", "1000");
    config.set("socket.nagle.disable", "true");
    let has_user = options.user.is_some();
    let is_secure = options.tls == Some(true);
    config.set(
        "security.protocol",
        match (is_secure, has_user) {
            (false, false) => "PLAINTEXT",
            (false, true) => "SASL_PLAINTEXT",
            (true, false) => "SSL",
            (true, true) => "SASL_SSL",
        },
    );
    if (is_secure || options.sasl != crate::stream::Sasl::Plain) && !has_tls() {
        return Err(invalid(
            "this program's Kafka client is built without TLS, which `kafka+ssl://` and `sasl=scram-…` need: build it with OpenSSL, by the line `rdkafka = { version = \"0.39\", features = [\"ssl\"] }` among the dependencies of the program",
        ));
    }
    if let (Some(user), Some(password)) = (&options.user, &options.password) {
        config.set("sasl.mechanism", options.sasl.mechanism());
        config.set("sasl.username", user).set("sasl.password", password);
    }
    if let Some(file) = options.tls_ca.as_ref().filter(|_| is_secure) {
        config.set("ssl.ca.location", file.display().to_string());
    }
    Ok(config)
}

/// Whether the client this program is linked with speaks TLS: whoever builds the program decides that.
fn has_tls() -> bool {
    let native = ClientConfig::new().create_native_config();
    let features = native.and_then(|native| native.get("builtin.features"));
    features.is_ok_and(|features| {
        features.trim_end_matches('\0').split(',').any(|feature| feature == "ssl")
    })
}

/// Runs what waits for librdkafka beside the async threads.
///
/// # Errors
/// [`Code::Stopped`] when the runtime ends meanwhile.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::new(Code::Stopped, "the program ends").with_source(error))
}

/// Drops a client in a thread of its own: that waits for the client's threads to end.
pub(crate) fn drop_aside<T: Send + 'static>(client: T) {
    // Where no thread can be started the client is dropped here.
    let _ = std::thread::Builder::new().name("kafka-close".into()).spawn(move || drop(client));
}

/// A client whose end, whoever has it last, is waited for in a thread of its own.
#[derive(Debug)]
pub(crate) struct Aside<T: Send + Sync + 'static>(Option<Arc<T>>);

impl<T: Send + Sync + 'static> Aside<T> {
    pub(crate) fn new(client: &Arc<T>) -> Self {
        Self(Some(Arc::clone(client)))
    }

    pub(crate) fn get(&self) -> Option<&Arc<T>> {
        self.0.as_ref()
    }
}

impl<T: Send + Sync + 'static> Drop for Aside<T> {
    fn drop(&mut self) {
        drop_aside(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::producer::BaseProducer;

    use super::*;

    #[test]
    fn users_and_tls_decide_the_protocol() {
        let mut options = StreamOptions::at(vec![("::1".into(), 9092), ("b".into(), 7)], "S");
        let set = |options: &StreamOptions| config(options).unwrap();
        assert_eq!(set(&options).get("bootstrap.servers"), Some("[::1]:9092,b:7"));
        assert_eq!(set(&options).get("security.protocol"), Some("PLAINTEXT"));
        (options.user, options.password) = (Some("ann".into()), Some("secret".into()));
        assert_eq!(set(&options).get("security.protocol"), Some("SASL_PLAINTEXT"));
        assert_eq!(set(&options).get("sasl.mechanism"), Some("PLAIN"));
        let created: Result<BaseProducer<Talk>, _> =
            set(&options).create_with_context(Talk::default());
        assert!(created.is_ok(), "a password needs no TLS in the client");
    }

    #[test]
    fn what_the_client_cannot_do_is_refused_with_its_cure() {
        if has_tls() {
            return;
        }
        let mut options = StreamOptions::new("localhost", "S");
        options.tls = Some(true);
        let error = config(&options).unwrap_err();
        assert_eq!(error.code(), Code::InvalidConfig);
        assert!(error.context().contains("features = [\"ssl\"]"), "{error}");
    }
}

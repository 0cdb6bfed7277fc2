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
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, DeliveryResult, Producer as _, ProducerContext},
};

use crate::StreamOptions;

/// The longest that servers are given to create or to describe something.
const ADMIN_TIMEOUT_MAX: Duration = Duration::from_secs(2);

/// How often a topic that is being created is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long announcements are kept: whoever waits says it again.
const GAPS_KEPT_MS: &str = "60000";

/// What a client's background says: it goes to the log, and the last error is kept.
#[derive(Debug, Clone, Default)]
pub(crate) struct Talk(Arc<Mutex<Option<(RDKafkaErrorCode, String)>>>);

impl Talk {
    fn last(&self) -> Option<(RDKafkaErrorCode, String)> {
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
            *last = Some((code, reason.to_owned()));
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

    /// How many partitions a topic has; `None` when there is no such topic.
    ///
    /// # Errors
    /// As [`Self::failed`] reads the answer.
    pub(crate) async fn partitions(&self, topic: &str) -> Result<Option<u16>> {
        self.look_at(topic, false).await
    }

    /// Looks for a topic until it can be used. What is missing is created by servers that do so when they
    /// are asked about it.
    ///
    /// # Errors
    /// As [`Self::partitions`].
    pub(crate) async fn wait_for(&self, topic: &str) -> Result<Option<u16>> {
        let until = tokio::time::Instant::now() + self.timeout.min(ADMIN_TIMEOUT_MAX);
        loop {
            let found = self.look_at(topic, true).await?;
            if found.is_some() || until <= tokio::time::Instant::now() {
                return Ok(found);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look_at(&self, topic: &str, create: bool) -> Result<Option<u16>> {
        let mut config = self.config();
        config.set("allow.auto.create.topics", if create { "true" } else { "false" });
        let (timeout, name) = (self.timeout, topic.to_owned());
        let asked = aside(move || {
            let talk = Talk::default();
            let client: BaseProducer<Talk> = match config.create_with_context(talk.clone()) {
                Ok(client) => client,
                Err(error) => return (Err(error), None),
            };
            let found = client.client().fetch_metadata(Some(&name), timeout);
            // Serves what was said in the background.
            client.poll(Duration::ZERO);
            let found = found.map(|found| {
                let topic = found.topics().first();
                topic.map(|topic| (topic.partitions().len(), topic.error()))
            });
            (found, talk.last())
        });
        let (found, said) = asked.await?;
        let about = format!("does not say whether there is a topic `{topic}`");
        let found = found.map_err(|error| self.failed_after(&about, error, said))?;
        match found {
            Some((partitions, None)) if partitions > 0 => {
                let too_many = |_| invalid(format!("topic `{topic}` has too many partitions"));
                u16::try_from(partitions).map(Some).map_err(too_many)
            }
            Some((_, Some(error))) if RDKafkaErrorCode::from(error) == AUTHORIZATION => {
                Err(self.failed(&about, KafkaError::MetadataFetch(error.into())))
            }
            _ => Ok(None),
        }
    }

    /// Asks the servers to create a topic, and the one for announcements. Whether that came about is seen
    /// by looking: they may not allow it, or somebody else may have been first.
    pub(crate) async fn create_topics(&self, topic: Option<(&str, u16)>, gaps: &str) {
        // As many replicas as the servers have set: newer ones take -1 for that.
        let new = |name, lanes: u16| {
            NewTopic::new(name, i32::from(lanes), TopicReplication::Fixed(-1))
        };
        let wanted = topic.map(|(name, lanes)| new(name, lanes));
        let gaps = new(gaps, 1).set("retention.ms", GAPS_KEPT_MS);
        let wanted: Vec<NewTopic<'_>> = wanted.into_iter().chain([gaps]).collect();
        let created = async {
            let admin = self.admin()?;
            let created = admin.create_topics(&wanted, &self.admin_options()).await;
            drop_aside(admin);
            created
        };
        match created.await {
            Ok(created) => {
                for (topic, error) in created.into_iter().filter_map(Result::err) {
                    tracing::debug!(%error, topic, "a topic was not created");
                }
            }
            Err(error) => tracing::debug!(%error, "no topic was created"),
        }
    }

    /// Deletes topics.
    ///
    /// # Errors
    /// As [`Self::failed`] reads the answer; that there is none is no error.
    pub(crate) async fn delete_topics(&self, topics: &[&str]) -> Result<()> {
        let what = "does not remove a topic";
        let deleted = async {
            let admin = self.admin()?;
            let deleted = admin.delete_topics(topics, &self.admin_options()).await;
            drop_aside(admin);
            deleted
        };
        for (_, code) in deleted
            .await
            .map_err(|error| self.failed(what, error))?
            .into_iter()
            .filter_map(Result::err)
        {
            if code != RDKafkaErrorCode::UnknownTopicOrPartition {
                return Err(self.failed(what, KafkaError::AdminOp(code)));
            }
        }
        Ok(())
    }

    pub(crate) fn admin(&self) -> Result<AdminClient<DefaultClientContext>, KafkaError> {
        self.config.create()
    }

    pub(crate) fn admin_options(&self) -> AdminOptions {
        let timeout = Some(self.timeout.min(ADMIN_TIMEOUT_MAX));
        AdminOptions::new().request_timeout(timeout).operation_timeout(timeout)
    }

    /// What went wrong, in our terms.
    pub(crate) fn failed(&self, what: &str, error: KafkaError) -> Error {
        self.failed_after(what, error, None)
    }

    /// The same, with what was said before: a question that found no server only says that it took too long.
    fn failed_after(
        &self,
        what: &str,
        error: KafkaError,
        said: Option<(RDKafkaErrorCode, String)>,
    ) -> Error {
        let own = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        let code = said.as_ref().map_or(own, |(code, _)| *code);
        let (code, cure) = meaning(code);
        let context = format!("the Kafka server {} {what}{cure}", self.address);
        Error::new(code, context).with_source(error)
    }
}

const AUTHORIZATION: RDKafkaErrorCode = RDKafkaErrorCode::TopicAuthorizationFailed;

/// What an error says about our act, and what to do about it.
pub(crate) fn meaning(code: RDKafkaErrorCode) -> (Code, &'static str) {
    use RDKafkaErrorCode as Kafka;
    match code {
        Kafka::Authentication | Kafka::SaslAuthenticationFailed | Kafka::IllegalSASLState => (
            Code::InvalidConfig,
            ": it refuses these credentials; give its URL a valid `user:password@`",
        ),
        Kafka::UnsupportedSASLMechanism => (
            Code::InvalidConfig,
            ": it does not know this proof; give its URL another `sasl=`",
        ),
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
    config.set("security.protocol", match (is_secure, has_user) {
        (false, false) => "PLAINTEXT",
        (false, true) => "SASL_PLAINTEXT",
        (true, false) => "SSL",
        (true, true) => "SASL_SSL",
    });
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

#[cfg(test)]
mod tests {
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

//! The topic both halves share: how it is created, and what is wrong with one that exists.

use std::{fmt, path::PathBuf, time::Duration};

use onewrite_core::{Partition, Result, Text};
use onewrite_lanes::url::{invalid, refuse_clear};

use crate::{connect::Server, gaps::gap_topic};

/// The partitions of a topic that is created without saying how many.
pub const LANES_DEFAULT: u16 = 8;

/// Kafka lets a name have 249; the topic of the announcements needs some of them.
const NAME_BYTES_MAX: usize = 240;

/// How a user proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sasl {
    /// The password as it is: it needs TLS, or a network of one's own.
    #[default]
    Plain,
    /// A proof of it, with SHA-256.
    ScramSha256,
    /// A proof of it, with SHA-512.
    ScramSha512,
}

impl Sasl {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        match text {
            "plain" => Ok(Self::Plain),
            "scram-sha-256" => Ok(Self::ScramSha256),
            "scram-sha-512" => Ok(Self::ScramSha512),
            _ => Err(invalid(
                "option `sasl` of a Kafka URL is `plain`, `scram-sha-256` or `scram-sha-512`",
            )),
        }
    }

    /// As Kafka calls it.
    pub(crate) fn mechanism(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// Where the topic is, and how to create it when it is missing.
#[derive(Clone)]
pub struct StreamOptions {
    /// Names or addresses of servers, and their ports: one that answers names the others.
    pub servers: Vec<(String, u16)>,
    /// `Some(true)` for TLS, verified against the system's certificates or [`Self::tls_ca`]; it needs a
    /// program whose `rdkafka` is built with its feature `ssl`. `Some(false)` for none. Unsaid there is
    /// none, and only servers on loopback are accepted.
    pub tls: Option<bool>,
    /// A file of certificates (PEM) to verify the servers by, instead of the system's.
    pub tls_ca: Option<PathBuf>,
    /// The user; without it, nobody.
    pub user: Option<String>,
    /// Its password. Never printed.
    pub password: Option<String>,
    /// How it is proved (plain).
    pub sasl: Sasl,
    /// The topic: letters, digits, `.`, `-` and `_`.
    pub stream: Text,
    /// How many partitions the topic has, here called lanes: the most processes that can share a
    /// receiver's work. Without it, as many as there are, or 8 when it is created.
    pub lanes: Option<u16>,
    /// How long to wait for any answer of a server (10 s).
    pub timeout: Duration,
}

impl StreamOptions {
    /// A topic of a server at `host`, with the defaults (port 9092).
    pub fn new(host: impl Into<String>, stream: impl Into<Text>) -> Self {
        Self::at(vec![(host.into(), 9092)], stream)
    }

    /// A topic of these servers, with the defaults.
    pub fn at(servers: Vec<(String, u16)>, stream: impl Into<Text>) -> Self {
        Self {
            servers,
            tls: None,
            tls_ca: None,
            user: None,
            password: None,
            sasl: Sasl::default(),
            stream: stream.into(),
            lanes: None,
            timeout: Duration::from_secs(10),
        }
    }

    /// Refuses names and numbers that no topic can have, and a server far away without TLS.
    ///
    /// # Errors
    /// [`onewrite_core::Code::InvalidConfig`], [`onewrite_core::Code::UnsafeSetting`].
    pub fn check(&self) -> Result<()> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let name = &*self.stream;
        let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
        if !fits || !name.bytes().all(is_plain) || matches!(name, "." | "..") {
            return Err(invalid(format!(
                "the topic of a Kafka URL is named with 1 to {NAME_BYTES_MAX} letters, digits, `.`, `-` and `_`"
            )));
        }
        if self.servers.is_empty() {
            return Err(invalid("a Kafka broker has one or more servers"));
        }
        if self.lanes == Some(0) {
            return Err(invalid("a topic has one or more partitions: `lanes` is 1 or more"));
        }
        if self.timeout < Duration::from_millis(100) {
            return Err(invalid("`timeout` is 100 ms or more"));
        }
        if self.tls.is_none() {
            self.servers.iter().try_for_each(|(host, _)| refuse_clear(host, "kafka+ssl://"))?;
        }
        Ok(())
    }
}

/// Without credentials.
impl fmt::Debug for StreamOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamOptions")
            .field("servers", &self.servers)
            .field("stream", &self.stream)
            .field("lanes", &self.lanes)
            .finish_non_exhaustive()
    }
}

/// Removes a topic and the one of its announcements, whatever they still hold. How far receivers were
/// stays noted in their groups until it expires there.
///
/// # Errors
/// [`onewrite_core::Code::SinkUnreachable`], [`onewrite_core::Code::SinkRefused`] where the server does not let it be removed; what
/// [`StreamOptions::check`] says.
pub async fn remove(options: &StreamOptions) -> Result<()> {
    options.check()?;
    let server = Server::new(options)?;
    server.delete_topics(&[&options.stream, &gap_topic(&options.stream)]).await
}

/// A topic that was found in order.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) stream: Text,
    pub(crate) lanes: u16,
    /// Whether there is a topic for announcements.
    pub(crate) has_gaps: bool,
}

impl Layout {
    /// The lane of a partition.
    pub(crate) fn lane_of(&self, partition: Partition) -> u16 {
        partition % self.lanes
    }
}

/// Finds the topic, or creates it, and refuses what is none. The same of the topic for announcements,
/// without which it works as well.
///
/// # Errors
/// [`onewrite_core::Code::InvalidConfig`] with the cure; [`onewrite_core::Code::SinkUnreachable`], [`onewrite_core::Code::SinkRefused`].
pub(crate) async fn open(server: &Server, options: &StreamOptions) -> Result<Layout> {
    let stream = &options.stream;
    let gaps = gap_topic(stream);
    let (found, gaps_found) = (server.partitions(stream).await?, server.partitions(&gaps).await?);
    if found.is_none() || gaps_found.is_none() {
        let lanes = options.lanes.unwrap_or(LANES_DEFAULT);
        server.create_topics(found.is_none().then_some((&**stream, lanes)), &gaps).await;
    }
    let found = match found {
        Some(found) => Some(found),
        None => server.wait_for(stream).await?,
    };
    let Some(lanes) = found else {
        let lanes = options.lanes.unwrap_or(LANES_DEFAULT);
        return Err(invalid(format!(
            "there is no topic `{stream}`, and it cannot be created from here; run `kafka-topics.sh --bootstrap-server {} --create --topic {stream} --partitions {lanes}`, or allow its user to create it",
            server.address()
        )));
    };
    if let Some(wanted) = options.lanes.filter(|wanted| *wanted != lanes) {
        return Err(invalid(format!(
            "topic `{stream}` has {lanes} partitions and not {wanted}: leave `lanes` out or say {lanes} (another number needs a new topic)"
        )));
    }
    let has_gaps = match gaps_found {
        Some(_) => true,
        None => server.wait_for(&gaps).await.is_ok_and(|found| found.is_some()),
    };
    Ok(Layout { stream: stream.clone(), lanes, has_gaps })
}

#[cfg(test)]
mod tests {
    use onewrite_core::Code;

    use super::*;

    #[test]
    fn partitions_fall_into_lanes() {
        let layout = Layout { stream: "S".into(), lanes: 4, has_gaps: false };
        assert_eq!((layout.lane_of(7), layout.lane_of(4)), (3, 0));
    }

    #[test]
    fn names_leave_room_for_the_announcements() {
        let named = |name: &str| StreamOptions::new("localhost", name.to_owned()).check();
        assert!(named(&"x".repeat(NAME_BYTES_MAX)).is_ok() && named("shop.orders").is_ok());
        assert!(gap_topic(&"x".repeat(NAME_BYTES_MAX)).len() <= 249);
        for name in ["", ".", "a b", "ä", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert_eq!(named(name).unwrap_err().code(), Code::InvalidConfig, "{name}");
        }
    }
}

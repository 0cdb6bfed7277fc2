//! The stream both halves share: its names, how it is created, and what is wrong with one that exists.

use std::{fmt, path::PathBuf, time::Duration};

use lapin::{
    ErrorKind, ExchangeKind,
    options::{
        ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    protocol::AMQPSoftError,
    types::{AMQPValue, FieldTable},
};
use onewrite_core::{Error, Partition, Result, Text};
use onewrite_lanes::url::{invalid, is_name, refuse_clear};

use crate::{
    connect::{Server, is_soft},
    gaps::gap_exchange,
};

/// The lanes of a stream that is created without saying how many.
pub const LANES_DEFAULT: u16 = 8;

/// The longest name of a stream or consumer: together they make a queue's, which has 255 bytes at most.
const NAME_BYTES_MAX: usize = 120;

/// Where the stream is, and how to create it when it is missing.
#[derive(Clone)]
pub struct StreamOptions {
    /// The server's name or address.
    pub host: String,
    /// Its port (5672, or 5671 with TLS).
    pub port: u16,
    /// `Some(true)` for TLS, verified against the system's certificates and [`Self::tls_ca`];
    /// `Some(false)` for none. Unsaid there is none, and only a server on loopback is accepted.
    pub tls: Option<bool>,
    /// A file of certificates (PEM) to verify the server by, beside the system's.
    pub tls_ca: Option<PathBuf>,
    /// The user (`guest`, which servers accept from loopback only).
    pub user: String,
    /// Its password. Never printed.
    pub password: String,
    /// The virtual host (`/`).
    pub vhost: String,
    /// The stream's name: letters, digits, `-` and `_`. Its exchanges and queues begin with it.
    pub stream: Text,
    /// Into how many lanes its partitions fall: part of the stream, and the most processes that can
    /// share a receiver's work. Without it, as many as the stream has, or 8 when it is created.
    pub lanes: Option<u16>,
    /// How long to wait for any answer of the server (10 s).
    pub timeout: Duration,
    /// How often both sides say that they are there (10 s). After two of these without a word the server
    /// takes a process for dead, and gives what it held to the next.
    pub heartbeat: Duration,
}

impl StreamOptions {
    /// A stream at `host`, with the defaults.
    pub fn new(host: impl Into<String>, stream: impl Into<Text>) -> Self {
        Self {
            host: host.into(),
            port: 5672,
            tls: None,
            tls_ca: None,
            user: "guest".into(),
            password: "guest".into(),
            vhost: "/".into(),
            stream: stream.into(),
            lanes: None,
            timeout: Duration::from_secs(10),
            heartbeat: Duration::from_secs(10),
        }
    }

    /// Refuses names and numbers that no stream can have, and a server far away without TLS.
    ///
    /// # Errors
    /// [`InvalidConfig`](onewrite_core::Code::InvalidConfig), [`UnsafeSetting`](onewrite_core::Code::UnsafeSetting).
    pub fn check(&self) -> Result<()> {
        if !is_name(&self.stream) || self.stream.len() > NAME_BYTES_MAX {
            return Err(invalid(
                "the stream of a RabbitMQ URL is named with 1 to 120 letters, digits, `-` and `_`",
            ));
        }
        if self.lanes == Some(0) {
            return Err(invalid("a stream has one or more lanes"));
        }
        if self.heartbeat < Duration::from_secs(1) {
            return Err(invalid("the `heartbeat` is a second or more"));
        }
        if self.tls.is_none() {
            refuse_clear(&self.host, "amqps://")?;
        }
        Ok(())
    }
}

/// Without credentials.
impl fmt::Debug for StreamOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamOptions")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("vhost", &self.vhost)
            .field("stream", &self.stream)
            .field("lanes", &self.lanes)
            .finish_non_exhaustive()
    }
}

/// A stream that was found in order.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) stream: Text,
    pub(crate) lanes: u16,
}

impl Layout {
    /// The lane of a partition.
    pub(crate) fn lane_of(&self, partition: Partition) -> u16 {
        partition % self.lanes
    }

    /// The queue of a lane for one consumer.
    pub(crate) fn queue(&self, consumer: &str, lane: u16) -> String {
        format!("{}.{consumer}.{lane}", self.stream)
    }
}

/// The queue whose limit says how many lanes a stream has: the one number that a server keeps for
/// everybody and compares. Nothing is ever put into it.
fn lanes_queue(stream: &str) -> String {
    format!("{stream}.lanes")
}

fn quorum(more: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    for (name, value) in more {
        table.insert(name.into(), value);
    }
    table
}

fn durable() -> QueueDeclareOptions {
    QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() }
}

/// Finds the stream, or creates it, and refuses what is none.
///
/// # Errors
/// [`InvalidConfig`](onewrite_core::Code::InvalidConfig) with the cure;
/// [`SinkUnreachable`](onewrite_core::Code::SinkUnreachable).
pub(crate) async fn open(server: &Server, options: &StreamOptions) -> Result<Layout> {
    let lanes = lanes(server, options).await?;
    let stream = &*options.stream;
    declare_exchange(server, stream, ExchangeKind::Direct).await?;
    declare_exchange(server, &gap_exchange(stream), ExchangeKind::Fanout).await?;
    Ok(Layout { stream: options.stream.clone(), lanes })
}

async fn declare_exchange(server: &Server, name: &str, kind: ExchangeKind) -> Result<()> {
    let channel = server.channel().await?;
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let wanted = format!("{kind:?}").to_lowercase();
    let declaring = channel.exchange_declare(name.into(), kind, options, FieldTable::default());
    let declared = tokio::time::timeout(server.timeout(), declaring).await;
    match declared {
        Ok(Err(error)) if is_soft(&error, &AMQPSoftError::PRECONDITIONFAILED) => Err(invalid(format!(
            "the exchange `{name}` is no durable {wanted} exchange: name the stream otherwise, or remove it"
        ))
        .with_source(error)),
        Ok(Err(error)) => Err(server.failed("does not create an exchange", error)),
        Ok(Ok(())) => Ok(()),
        Err(_) => server.bounded("creates no exchange", std::future::pending()).await,
    }
}

/// How many lanes the stream has: as many as it was created with, which may be now.
async fn lanes(server: &Server, options: &StreamOptions) -> Result<u16> {
    let name = lanes_queue(&options.stream);
    let wanted = options.lanes.unwrap_or(LANES_DEFAULT);
    let channel = server.channel().await?;
    let limit = quorum([("x-max-length", AMQPValue::LongInt(i32::from(wanted)))]);
    let declaring = channel.queue_declare(name.as_str().into(), durable(), limit);
    let error = match tokio::time::timeout(server.timeout(), declaring).await {
        Ok(Ok(_)) => return Ok(wanted),
        Ok(Err(error)) => error,
        Err(_) => return server.bounded("creates no queue", std::future::pending()).await,
    };
    if !is_soft(&error, &AMQPSoftError::PRECONDITIONFAILED) {
        return Err(server.failed("does not create a queue", error));
    }
    match stated(&error) {
        Some(lanes) if options.lanes.is_none() => Ok(lanes),
        Some(lanes) => Err(invalid(format!(
            "stream `{}` has {lanes} lanes and not {wanted}: leave `lanes` out or say {lanes} (another number needs a new stream)",
            options.stream
        ))),
        None => Err(invalid(format!(
            "the queue `{name}` is not one of a stream's lanes: name the stream otherwise, or remove the queue"
        ))
        .with_source(error)),
    }
}

/// The number that the server has, in its words about ours: `… but current is '8'`.
fn stated(error: &lapin::Error) -> Option<u16> {
    let ErrorKind::ProtocolError(said) = error.kind() else { return None };
    let said = said.get_message().to_string();
    let (_, current) = said.split_once("'x-max-length'")?.1.rsplit_once(" current is '")?;
    current.split('\'').next()?.parse().ok().filter(|lanes| *lanes > 0)
}

/// Creates the queue of a lane for one consumer, unless it is there. From then on it keeps what is
/// published.
pub(crate) async fn create_queue(
    server: &Server,
    layout: &Layout,
    consumer: &str,
    lane: u16,
) -> Result<()> {
    let queue = layout.queue(consumer, lane);
    let channel = server.channel().await?;
    let creating = async {
        let arguments = quorum([("x-single-active-consumer", AMQPValue::Boolean(true))]);
        channel.queue_declare(queue.as_str().into(), durable(), arguments).await?;
        let (exchange, key) = (&*layout.stream, lane.to_string());
        let options = QueueBindOptions::default();
        let arguments = FieldTable::default();
        channel.queue_bind(queue.into(), exchange.into(), key.into(), options, arguments).await
    };
    let created = tokio::time::timeout(server.timeout(), creating).await;
    match created {
        Ok(Err(error)) if is_soft(&error, &AMQPSoftError::PRECONDITIONFAILED) => {
            Err(other_queue(&layout.queue(consumer, lane), error))
        }
        Ok(Err(error)) => Err(server.failed("does not create a queue", error)),
        Ok(Ok(())) => Ok(()),
        Err(_) => server.bounded("creates no queue", std::future::pending()).await,
    }
}

fn other_queue(queue: &str, error: lapin::Error) -> Error {
    invalid(format!(
        "the queue `{queue}` is no quorum queue with a single active consumer: name the consumer otherwise, or remove the queue"
    ))
    .with_source(error)
}

/// Removes a stream with the queues of these consumers, whatever they still hold.
///
/// # Errors
/// [`SinkUnreachable`](onewrite_core::Code::SinkUnreachable); what [`StreamOptions::check`] says.
pub async fn remove(options: &StreamOptions, consumers: &[&str]) -> Result<()> {
    options.check()?;
    let server = Server::new(options, "onewrite")?;
    let layout = Layout {
        lanes: lanes(&server, &StreamOptions { lanes: None, ..options.clone() }).await?,
        stream: options.stream.clone(),
    };
    let channel = server.channel().await?;
    let removing = async {
        for exchange in [options.stream.to_string(), gap_exchange(&options.stream)] {
            channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await?;
        }
        let queues = consumers
            .iter()
            .flat_map(|consumer| (0..layout.lanes).map(|lane| layout.queue(consumer, lane)));
        // The one that says how many lanes there are goes last: a removal that breaks off is begun anew.
        for queue in queues.chain([lanes_queue(&options.stream)]) {
            channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
        }
        Ok(())
    };
    server.bounded("does not remove a stream", removing).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_fall_into_lanes() {
        let layout = Layout { stream: "S".into(), lanes: 4 };
        assert_eq!(layout.lane_of(7), 3);
        assert_eq!(layout.queue("payments", 3), "S.payments.3");
    }
}

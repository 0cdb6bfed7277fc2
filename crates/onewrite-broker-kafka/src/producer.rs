//! The client that publishes: how it is set, where outcomes go, and when it is of no more use.
//!
//! Each message carries where its outcome goes: to the call that sent it, however many there are; what comes
//! for a call that was given up is dropped.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use onewrite_core::{Error, Result};
use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer},
};
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    KafkaSinkOptions,
    connect::{Server, Talk, drop_aside, meaning},
};

/// Where the outcome of one message goes, and its place in the batch.
pub(crate) struct Ticket {
    pub(crate) outcomes: UnboundedSender<Outcome>,
    pub(crate) index: usize,
}

/// A message on its way out.
pub(crate) type Outgoing<'a> = BaseRecord<'a, str, [u8], Box<Ticket>>;

/// What became of one message.
pub(crate) struct Outcome {
    pub(crate) index: usize,
    pub(crate) error: Option<KafkaError>,
}

/// Passes outcomes on.
struct Confirmations(Talk);

impl ClientContext for Confirmations {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        self.0.log(level, fac, log_message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ProducerContext for Confirmations {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let error = result.as_ref().err().map(|(error, _)| error.clone());
        // The call may have been given up.
        let _ = ticket.outcomes.send(Outcome { index: ticket.index, error });
    }
}

/// A client that publishes.
pub(crate) struct Producer {
    client: Option<ThreadedProducer<Confirmations>>,
    /// Something of it may still be on its way that nobody waits for, or it has ended.
    is_over: AtomicBool,
    timeout: Duration,
    address: String,
}

impl Producer {
    /// Begins a client; it connects by itself.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] for settings that the client does not take.
    pub(crate) fn open(server: &Server, options: &KafkaSinkOptions) -> Result<Self> {
        let client = config(server, options)
            .create_with_context(Confirmations(Talk::default()))
            .map_err(|error| server.failed("cannot be published to", error))?;
        Ok(Self {
            client: Some(client),
            is_over: AtomicBool::new(false),
            timeout: server.timeout(),
            address: server.address().to_owned(),
        })
    }

    /// Whether it can be used for another call.
    pub(crate) fn is_usable(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    /// It is used for no other call.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// How long a server may take to answer.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Hands a message to the client; on failure it comes back.
    pub(crate) fn send<'a>(
        &self,
        message: Outgoing<'a>,
    ) -> Result<(), (RDKafkaErrorCode, Outgoing<'a>)> {
        let Some(client) = &self.client else { return Err((RDKafkaErrorCode::Fatal, message)) };
        client.send(message).map_err(|(error, message)| {
            (error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail), message)
        })
    }

    /// What a failed message says about the sink. Of a message whose time is over nothing is known. A
    /// client that cannot go on is used for no other call.
    pub(crate) fn trouble(&self, stream: &str, error: KafkaError) -> Error {
        if self.client.as_ref().is_some_and(|client| client.client().fatal_error().is_some()) {
            self.end();
        }
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        let (code, cure) = meaning(code);
        let address = &self.address;
        let context = format!(
            "the Kafka server {address} does not confirm what topic `{stream}` is sent{cure}"
        );
        Error::new(code, context).with_source(error)
    }
}

/// What is still on its way is thrown away.
impl Drop for Producer {
    fn drop(&mut self) {
        drop_aside(self.client.take());
    }
}

fn config(server: &Server, options: &KafkaSinkOptions) -> ClientConfig {
    let mut config = server.config();
    let millis = |time: Duration| time.as_millis().to_string();
    config.set("enable.idempotence", "true").set("acks", "all");
    config.set("max.in.flight.requests.per.connection", "5");
    // A request without an answer is sent once more before its messages are given up.
    config.set("socket.timeout.ms", millis(server.timeout()));
    config.set("request.timeout.ms", millis(server.timeout()));
    config.set("message.timeout.ms", millis(2 * server.timeout()));
    config.set("message.max.bytes", options.message_bytes_max.to_string());
    // Messages come a call at a time: what is there already goes at once, the rest while that is answered.
    config.set("linger.ms", "0.5").set("compression.type", "lz4");
    config.set("batch.num.messages", "10000");
    // Java's: the same key goes where their clients send it.
    config.set("partitioner", "murmur2_random");
    config
}

//! Publishing: many messages on their way at the same time, each confirmed by the servers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use onewrite_core::{
    BoxFuture, Delivery, Incarnation, Partition, Result, Sequence, Text,
    broker::{Receipt, Sink},
};
use onewrite_lanes::url::invalid;

use crate::{
    StreamOptions,
    connect::Server,
    gaps::Gaps,
    producer::Producer,
    publish::{Run, Target},
    stream::{self, Layout},
    url, warnings,
};

/// How many messages may be on their way unless configured otherwise.
pub const WINDOW_DEFAULT: usize = 10_000;

/// The largest message that is sent unless configured otherwise: what servers take by default, less some
/// room for what they count besides.
pub const MESSAGE_BYTES_MAX_DEFAULT: u32 = 1_000_000;

/// What decides the partition of Kafka that a message goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PartitionBy {
    /// Our partition `p` goes to Kafka's partition `p` modulo their number. Everything of ours is in
    /// order and a loss is noticed.
    #[default]
    Partition,
    /// The key decides, by the hash that Java's clients use: the same key is in the same partition as what
    /// they send to a topic with as many partitions, for those who join topics.
    ///
    /// Then the chain of predecessors would span Kafka's partitions, so messages go without it and are
    /// known by their ids alone. What is of one key stays in order, because a message of a key is sent when
    /// the one before it is confirmed; a message that the servers lose after that is missed by nobody.
    Key,
}

impl PartitionBy {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        match text {
            "partition" => Ok(Self::Partition),
            "key" => Ok(Self::Key),
            _ => Err(invalid("option `partition_by` of a Kafka URL is `partition` or `key`")),
        }
    }
}

/// Where and how to publish.
#[derive(Debug, Clone)]
pub struct KafkaSinkOptions {
    /// The topic.
    pub stream: StreamOptions,
    /// How many messages may be on their way at once ([`WINDOW_DEFAULT`]).
    pub window: usize,
    /// Bytes of key and data of one message at most ([`MESSAGE_BYTES_MAX_DEFAULT`]): not more than the
    /// topic's `max.message.bytes`.
    pub message_bytes_max: u32,
    /// What decides the partition of Kafka.
    pub partition_by: PartitionBy,
}

impl KafkaSinkOptions {
    /// The defaults for a topic.
    #[must_use]
    pub fn new(stream: StreamOptions) -> Self {
        Self {
            stream,
            window: WINDOW_DEFAULT,
            message_bytes_max: MESSAGE_BYTES_MAX_DEFAULT,
            partition_by: PartitionBy::default(),
        }
    }

    /// Reads `kafka[+ssl]://[user:password@]host[:9092][,host2:9092]/TOPIC[?lanes=8&window=10000&…]`.
    /// Options of the receiving half are read past.
    ///
    /// # Errors
    /// [`InvalidConfig`](onewrite_core::Code::InvalidConfig), naming the part, never a secret;
    /// [`UnsafeSetting`](onewrite_core::Code::UnsafeSetting) for a server far away without TLS.
    pub fn from_url(url: &str) -> Result<Self> {
        let read = url::parse(url)?;
        Ok(Self {
            window: read.window.unwrap_or(WINDOW_DEFAULT),
            message_bytes_max: read.message_bytes_max.unwrap_or(MESSAGE_BYTES_MAX_DEFAULT),
            partition_by: read.partition_by,
            ..Self::new(read.stream)
        })
    }

    fn check(&self) -> Result<()> {
        self.stream.check()?;
        if !(1_000..=1_000_000_000).contains(&self.message_bytes_max) {
            return Err(invalid("`message_bytes_max` is 1000 to 1000000000"));
        }
        Ok(())
    }
}

/// Deliveries to a topic.
///
/// A settled receipt says that the servers have stored the message, on as many replicas as the topic's
/// `min.insync.replicas` asks for ([`Sink::warnings`]). A record larger than they take is refused; all other
/// trouble is the sink's and parks nothing. What a call left on its way, because it was given up or not
/// answered, is thrown away with the client that had it, and the next call begins with a new one.
pub struct KafkaSink {
    server: Arc<Server>,
    options: KafkaSinkOptions,
    layout: Layout,
    gaps: Gaps,
    producer: Mutex<Option<Arc<Producer>>>,
}

impl KafkaSink {
    /// Connects, and creates the topic if it is missing.
    ///
    /// # Errors
    /// [`SinkUnreachable`](onewrite_core::Code::SinkUnreachable), [`SinkRefused`](onewrite_core::Code::SinkRefused);
    /// [`InvalidConfig`](onewrite_core::Code::InvalidConfig) for refused credentials, another number of
    /// partitions, or a topic that is missing and cannot be created;
    /// [`UnsafeSetting`](onewrite_core::Code::UnsafeSetting) for a server far away without TLS.
    pub async fn connect(options: KafkaSinkOptions) -> Result<Self> {
        options.check()?;
        let server = Arc::new(Server::new(&options.stream)?);
        let layout = stream::open(&server, &options.stream).await?;
        let gaps = Gaps::listen(&server, &layout)?;
        let first = Producer::open(&server, &options)?;
        let producer = Mutex::new(Some(Arc::new(first)));
        Ok(Self { server, options, layout, gaps, producer })
    }

    /// How many lanes the stream has: the partitions of its topic.
    #[must_use]
    pub fn lanes(&self) -> u16 {
        self.layout.lanes
    }

    async fn publish_all(&self, batch: &[Delivery]) -> Result<Vec<Receipt>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let producer = self.usable()?;
        let target = Target { producer: &producer, layout: &self.layout, options: &self.options };
        Run::new(target, batch).run().await
    }

    /// The client that is used, or a new one where that has ended.
    fn usable(&self) -> Result<Arc<Producer>> {
        let mut kept = self.producer();
        if let Some(producer) = kept.as_ref().filter(|producer| producer.is_usable()) {
            return Ok(Arc::clone(producer));
        }
        *kept = None;
        let new = Arc::new(Producer::open(&self.server, &self.options)?);
        Ok(Arc::clone(kept.insert(new)))
    }

    /// A panic while the lock was held leaves nothing half done here.
    fn producer(&self) -> MutexGuard<'_, Option<Arc<Producer>>> {
        self.producer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for KafkaSink {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        Box::pin(self.publish_all(batch))
    }

    fn gaps(&self, source: &str, life: Incarnation) -> Vec<(Partition, Sequence)> {
        self.gaps.take(source, life)
    }

    fn warnings(&self) -> BoxFuture<'_, Result<Vec<Text>>> {
        Box::pin(warnings::look(&self.server, &self.layout))
    }
}

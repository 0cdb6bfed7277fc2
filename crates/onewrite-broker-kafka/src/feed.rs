//! Receiving: the lanes of a stream, shared among the processes of a receiver by leases.

use std::{fmt, sync::Arc, time::Duration};

use onewrite_core::{
    BoxFuture, Result, Text,
    broker::{Arrival, Feed},
    retry::Backoff,
    store::Store,
};
use onewrite_lanes::{
    Closer, LaneFeed, LaneFeedOptions,
    url::{invalid, is_name},
};

use crate::{
    StreamOptions,
    connect::Server,
    lanes::KafkaLanes,
    stream::{self, Layout},
    url,
};

/// How often a lane is looked at for being full.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// How a receiver reads a stream.
#[derive(Clone)]
pub struct KafkaFeedOptions {
    /// The topic.
    pub stream: StreamOptions,
    /// Names the group, and the leases: letters, digits, `-` and `_`. The same in all processes of one
    /// receiver, and another one for each receiver. Nobody else may join this group.
    pub consumer: Text,
    /// The receiver's database, for the leases.
    pub store: Arc<dyn Store>,
    /// Who reads: unique for the life of the process.
    pub owner: Text,
    /// How long leases hold without renewal: the longest a dead process's lanes wait (10 s).
    pub lease_ttl: Duration,
    /// Messages of one lane that are read and not settled, at most (2,000): bounds the memory, and
    /// how much of a partition that is not taken fits before its lane is full.
    pub pending_max: usize,
    /// Deliveries in one arrival at most (500).
    pub batch_max: usize,
    /// Bytes of events in one arrival at most (4 MiB); one larger event still comes, alone.
    pub batch_bytes_max: usize,
    /// How long an arrival waits for more to come, once something is ready (not at all).
    pub linger: Duration,
    /// Pauses before what was not taken is tried again.
    pub backoff: Backoff,
    /// How long a missing predecessor is waited for before it is announced (10 s).
    pub gap_patience: Duration,
}

impl KafkaFeedOptions {
    /// The defaults for a topic.
    pub fn new(
        stream: StreamOptions,
        consumer: impl Into<Text>,
        store: Arc<dyn Store>,
        owner: impl Into<Text>,
    ) -> Self {
        Self {
            stream,
            consumer: consumer.into(),
            store,
            owner: owner.into(),
            lease_ttl: Duration::from_secs(10),
            pending_max: 2_000,
            batch_max: 500,
            batch_bytes_max: 4 * 1024 * 1024,
            linger: Duration::ZERO,
            backoff: Backoff::default(),
            gap_patience: Duration::from_secs(10),
        }
    }

    /// Reads `kafka[+ssl]://[user:password@]host[:9092][,host2:9092]/TOPIC[?lanes=8&pending_max=2000&…]`.
    /// Options of the publishing half are read past.
    ///
    /// # Errors
    /// [`InvalidConfig`](onewrite_core::Code::InvalidConfig), naming the part, never a secret;
    /// [`UnsafeSetting`](onewrite_core::Code::UnsafeSetting) for a server far away without TLS.
    pub fn from_url(
        url: &str,
        consumer: impl Into<Text>,
        store: Arc<dyn Store>,
        owner: impl Into<Text>,
    ) -> Result<Self> {
        let read = url::parse(url)?;
        let mut out = Self::new(read.stream, consumer, store, owner);
        out.gap_patience = read.gap_patience.unwrap_or(out.gap_patience);
        out.pending_max = read.pending_max.unwrap_or(out.pending_max);
        out.batch_max = read.batch_max.unwrap_or(out.batch_max);
        Ok(out)
    }

    fn check(&self) -> Result<()> {
        self.stream.check()?;
        if !is_name(&self.consumer) {
            return Err(invalid(
                "the consumer of a Kafka topic is named with 1 to 200 letters, digits, `-` and `_`",
            ));
        }
        if self.pending_max == 0 || self.batch_max == 0 {
            return Err(invalid("`pending_max` and `batch_max` are 1 or more"));
        }
        if self.lease_ttl < Duration::from_millis(100) {
            return Err(invalid("the lease's time is 100 ms or more"));
        }
        Ok(())
    }

    fn for_lanes(self, layout: &Layout) -> LaneFeedOptions {
        LaneFeedOptions {
            stream: layout.stream.clone(),
            consumer: self.consumer,
            lanes: layout.lanes,
            look_with: "kafka-console-consumer.sh --bootstrap-server … --topic TOPIC --partition LANE --offset N --max-messages 1",
            store: self.store,
            owner: self.owner,
            lease_ttl: self.lease_ttl,
            tell_every: TELL_EVERY,
            pending_max: self.pending_max,
            batch_max: self.batch_max,
            batch_bytes_max: self.batch_bytes_max,
            linger: self.linger,
            backoff: self.backoff,
            gap_patience: self.gap_patience,
        }
    }
}

impl fmt::Debug for KafkaFeedOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaFeedOptions")
            .field("stream", &self.stream)
            .field("consumer", &self.consumer)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

/// Deliveries that come from a topic.
///
/// Of each lane at most one arrival is handed out at a time. Dropping the feed closes it, in the
/// background; [`Closer::close`] does it in the open.
pub struct KafkaFeed(LaneFeed);

impl KafkaFeed {
    /// Connects, creates the topic if it is missing, and begins to share the lanes.
    ///
    /// # Errors
    /// As [`KafkaSink::connect`](crate::KafkaSink::connect).
    pub async fn open(options: KafkaFeedOptions) -> Result<Self> {
        options.check()?;
        let server = Arc::new(Server::new(&options.stream)?);
        let layout = stream::open(&server, &options.stream).await?;
        let lanes = KafkaLanes::new(
            server,
            &options.stream,
            layout.clone(),
            &options.consumer,
            options.pending_max,
        )?;
        Ok(Self(LaneFeed::open(lanes, options.for_lanes(&layout))))
    }

    /// A handle that closes the feed, wherever the feed itself has gone.
    #[must_use]
    pub fn closer(&self) -> Closer {
        self.0.closer()
    }
}

impl Feed for KafkaFeed {
    fn next(&mut self) -> BoxFuture<'_, Option<Box<dyn Arrival>>> {
        self.0.next()
    }
}

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
    held::Held,
    lanes::RedisLanes,
    stream::{self, Layout},
    url,
};

/// How a receiver reads a stream.
#[derive(Clone)]
pub struct RedisFeedOptions {
    /// The stream.
    pub stream: StreamOptions,
    /// Names the groups of the lanes, and their leases: letters, digits, `-` and `_`. The same in all
    /// processes of one receiver, and another one for each receiver.
    pub consumer: Text,
    /// The receiver's database, for the leases.
    pub store: Arc<dyn Store>,
    /// Who reads: unique for the life of the process.
    pub owner: Text,
    /// How long leases hold without renewal: the longest a dead process's lanes wait (10 s).
    pub lease_ttl: Duration,
    /// After what time without news an entry is taken for left behind (30 s): by a process that lost its
    /// lane and read on, or with an acknowledgement that was lost. Renewed while an entry is held.
    pub ack_wait: Duration,
    /// Entries of one lane that are read and not settled, at most (2,000): bounds the memory, and
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
    /// How long a missing predecessor is waited for before it is announced (twice the `ack_wait`).
    pub gap_patience: Option<Duration>,
}

impl RedisFeedOptions {
    /// The defaults for a stream.
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
            ack_wait: Duration::from_secs(30),
            pending_max: 2_000,
            batch_max: 500,
            batch_bytes_max: 4 * 1024 * 1024,
            linger: Duration::ZERO,
            backoff: Backoff::default(),
            gap_patience: None,
        }
    }

    /// Reads `redis[s]://[user:password@]host[:6379][/database]/STREAM[?lanes=8&ack_wait=30s&…]`. Options
    /// of the publishing half are read past.
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
        out.ack_wait = read.ack_wait.unwrap_or(out.ack_wait);
        out.pending_max = read.pending_max.unwrap_or(out.pending_max);
        out.batch_max = read.batch_max.unwrap_or(out.batch_max);
        Ok(out)
    }

    fn check(&self) -> Result<()> {
        self.stream.check()?;
        if !is_name(&self.consumer) {
            return Err(invalid(
                "the consumer of a Redis stream is named with 1 to 200 letters, digits, `-` and `_`",
            ));
        }
        if self.pending_max == 0 || self.batch_max == 0 {
            return Err(invalid("`pending_max` and `batch_max` are 1 or more"));
        }
        if self.ack_wait < Duration::from_millis(100) || self.lease_ttl < Duration::from_millis(100)
        {
            return Err(invalid("`ack_wait` and the lease's time are 100 ms or more"));
        }
        Ok(())
    }

    fn for_lanes(self, layout: &Layout) -> LaneFeedOptions {
        LaneFeedOptions {
            stream: layout.stream.clone(),
            consumer: self.consumer,
            lanes: layout.lanes,
            look_with: "redis-cli XRANGE STREAM:LANE ID ID",
            store: self.store,
            owner: self.owner,
            lease_ttl: self.lease_ttl,
            // Often enough that one lost answer does no harm.
            tell_every: self.ack_wait / 4,
            pending_max: self.pending_max,
            batch_max: self.batch_max,
            batch_bytes_max: self.batch_bytes_max,
            linger: self.linger,
            backoff: self.backoff,
            gap_patience: self.gap_patience.unwrap_or(self.ack_wait * 2),
        }
    }
}

impl fmt::Debug for RedisFeedOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisFeedOptions")
            .field("stream", &self.stream)
            .field("consumer", &self.consumer)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

/// Deliveries that come from a stream.
///
/// Of each lane at most one arrival is handed out at a time. Dropping the feed closes it, in the
/// background; [`Closer::close`] does it in the open.
pub struct RedisFeed(LaneFeed);

impl RedisFeed {
    /// Connects, creates the stream and the groups if they are missing, and begins to share the lanes.
    ///
    /// # Errors
    /// As [`RedisSink::connect`](crate::RedisSink::connect).
    pub async fn open(options: RedisFeedOptions) -> Result<Self> {
        options.check()?;
        let server = Arc::new(Server::connect(&options.stream).await?);
        let layout = stream::open(&server, &options.stream).await?;
        let lanes = RedisLanes {
            held: (0..layout.lanes).map(|_| Arc::<Held>::default()).collect(),
            server,
            options: options.stream.clone(),
            group: options.consumer.clone(),
            ack_wait: options.ack_wait,
            pending_max: options.pending_max,
            layout,
        };
        // Now, and not only when a lane is opened: until then nothing keeps its entries for this receiver.
        for lane in 0..lanes.layout.lanes {
            lanes.create_group(lane).await?;
        }
        let options = options.for_lanes(&lanes.layout);
        Ok(Self(LaneFeed::open(lanes, options)))
    }

    /// A handle that closes the feed, wherever the feed itself has gone.
    #[must_use]
    pub fn closer(&self) -> Closer {
        self.0.closer()
    }
}

impl Feed for RedisFeed {
    fn next(&mut self) -> BoxFuture<'_, Option<Box<dyn Arrival>>> {
        self.0.next()
    }
}

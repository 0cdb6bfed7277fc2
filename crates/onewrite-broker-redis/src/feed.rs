//! Receiving: the lanes of a stream, shared among the processes of a receiver by leases.

use std::{sync::Arc, time::Duration};

use onewrite_core::{
    BoxFuture, Result,
    broker::{Arrival, Feed},
};
use onewrite_lanes::{Closer, LaneFeed, LaneFeedOptions, Reading, url::invalid};

use crate::{
    StreamOptions,
    connect::Server,
    held::Held,
    lanes::RedisLanes,
    stream::{self, Layout},
    url,
};

/// How a receiver reads a stream.
#[derive(Debug, Clone)]
pub struct RedisFeedOptions {
    /// The stream.
    pub stream: StreamOptions,
    /// After what time without news an entry is taken for left behind (30 s): by a process that lost its
    /// lane and read on, or with an acknowledgement that was lost. Renewed while an entry is held.
    pub ack_wait: Duration,
    /// What the receiver decides: its name is that of the group in each lane. A missing
    /// predecessor is announced after twice the [`Self::ack_wait`], unless said otherwise.
    pub reading: Reading,
}

impl RedisFeedOptions {
    /// The defaults for a stream.
    #[must_use]
    pub fn new(stream: StreamOptions, reading: Reading) -> Self {
        Self { stream, ack_wait: Duration::from_secs(30), reading }
    }

    /// Reads `redis[s]://[user:password@]host[:6379][/database]/STREAM[?lanes=8&ack_wait=30s&…]`. Options
    /// of the publishing half are read past.
    ///
    /// # Errors
    /// [`InvalidConfig`](onewrite_core::Code::InvalidConfig), naming the part, never a secret;
    /// [`UnsafeSetting`](onewrite_core::Code::UnsafeSetting) for a server far away without TLS.
    pub fn from_url(url: &str, reading: Reading) -> Result<Self> {
        let read = url::parse(url)?;
        let mut out = Self::new(read.stream, reading);
        out.ack_wait = read.ack_wait.unwrap_or(out.ack_wait);
        let reading = &mut out.reading;
        reading.pending_max = read.pending_max.unwrap_or(reading.pending_max);
        reading.batch_max = read.batch_max.unwrap_or(reading.batch_max);
        Ok(out)
    }

    fn check(&self) -> Result<()> {
        self.stream.check()?;
        self.reading.check()?;
        if self.ack_wait < Duration::from_millis(100) {
            return Err(invalid("`ack_wait` is 100 ms or more"));
        }
        Ok(())
    }

    fn for_lanes(self, layout: &Layout) -> LaneFeedOptions {
        LaneFeedOptions {
            stream: layout.stream.clone(),
            lanes: layout.lanes,
            look_with: "redis-cli XRANGE STREAM:LANE ID ID",
            // Often enough that one lost answer does no harm.
            tell_every: self.ack_wait / 4,
            gap_patience: self.ack_wait * 2,
            reading: self.reading,
        }
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
            group: options.reading.consumer.clone(),
            ack_wait: options.ack_wait,
            pending_max: options.reading.pending_max,
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

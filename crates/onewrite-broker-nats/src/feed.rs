//! Receiving: the lanes of a stream, shared among the processes of a receiver by leases.

use std::time::Duration;

use onewrite_core::{
    BoxFuture, Result,
    broker::{Arrival, Feed},
};
use onewrite_lanes::{Closer, LaneFeed, LaneFeedOptions, Reading};

use crate::{
    StreamOptions, connect,
    lanes::NatsLanes,
    stream::{self, Layout},
    url,
};

/// How a receiver reads a stream.
#[derive(Debug, Clone)]
pub struct NatsFeedOptions {
    /// The stream.
    pub stream: StreamOptions,
    /// How long the server waits for an answer before it delivers again (30 s). Renewed while a message
    /// is held; what a dead process held comes again only then.
    pub ack_wait: Duration,
    /// What the receiver decides: its name is that of the durable consumers, one for each lane (`CONSUMER-LANE`). A missing
    /// predecessor is announced after twice the [`Self::ack_wait`], unless said otherwise.
    pub reading: Reading,
}

impl NatsFeedOptions {
    /// The defaults for a stream.
    #[must_use]
    pub fn new(stream: StreamOptions, reading: Reading) -> Self {
        Self { stream, ack_wait: Duration::from_secs(30), reading }
    }

    /// Reads `nats://[user:password@|token@]host[:4222]/STREAM[?lanes=8&ack_wait=30s&…]`. Options of the
    /// publishing half are read past.
    ///
    /// # Errors
    /// [`InvalidConfig`](onewrite_core::Code::InvalidConfig), naming the part; never a secret.
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
            return Err(url::invalid("`ack_wait` is 100 ms or more"));
        }
        Ok(())
    }

    fn for_lanes(self, layout: &Layout) -> LaneFeedOptions {
        LaneFeedOptions {
            stream: layout.stream.clone(),
            lanes: layout.lanes,
            look_with: "nats stream get",
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
pub struct NatsFeed(LaneFeed);

impl NatsFeed {
    /// Connects, creates the stream and the consumers if they are missing, and begins to share the lanes.
    ///
    /// # Errors
    /// As [`NatsSink::connect`](crate::NatsSink::connect), and [`InvalidConfig`](onewrite_core::Code::InvalidConfig) when the server
    /// refuses a consumer.
    pub async fn open(options: NatsFeedOptions) -> Result<Self> {
        options.check()?;
        let (client, context) = connect::connect(&options.stream, "onewrite feed").await?;
        let layout = stream::open(&context, &options.stream).await?;
        let lanes = NatsLanes {
            client,
            context,
            consumer: options.reading.consumer.clone(),
            ack_wait: options.ack_wait,
            pending_max: options.reading.pending_max,
            timeout: options.stream.timeout,
            layout,
        };
        for lane in 0..lanes.layout.lanes {
            lanes.create_consumer(lane).await?;
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

impl Feed for NatsFeed {
    fn next(&mut self) -> BoxFuture<'_, Option<Box<dyn Arrival>>> {
        self.0.next()
    }
}

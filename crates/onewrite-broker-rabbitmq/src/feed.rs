//! Receiving: the lanes of a stream, shared among the processes of a receiver by leases.

use std::time::Duration;

use onewrite_core::{
    BoxFuture, Result,
    broker::{Arrival, Feed},
};
use onewrite_lanes::{Closer, LaneFeed, LaneFeedOptions, Reading};

use crate::{
    StreamOptions,
    connect::Server,
    lanes::{Known, RabbitLanes, redelivered_within},
    stream::{self, Layout},
    url,
};

/// How often a lane looks whether it is full.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How a receiver reads a stream.
#[derive(Debug, Clone)]
pub struct RabbitFeedOptions {
    /// The stream.
    pub stream: StreamOptions,
    /// What the receiver decides: its name is part of its queues'. At most 65,535 messages of a lane can be
    /// held. A missing predecessor is announced after four times the `heartbeat`, unless said otherwise.
    pub reading: Reading,
}

impl RabbitFeedOptions {
    /// The defaults for a stream.
    #[must_use]
    pub fn new(stream: StreamOptions, reading: Reading) -> Self {
        Self { stream, reading }
    }

    /// Reads `amqp[s]://[user:password@]host[:5672][/vhost]/STREAM[?lanes=8&pending_max=2000&…]`. Options
    /// of the publishing half are read past.
    ///
    /// # Errors
    /// [`InvalidConfig`](onewrite_core::Code::InvalidConfig), naming the part, never a secret;
    /// [`UnsafeSetting`](onewrite_core::Code::UnsafeSetting) for a server far away without TLS.
    pub fn from_url(url: &str, reading: Reading) -> Result<Self> {
        let read = url::parse(url)?;
        let mut out = Self::new(read.stream, reading);
        let reading = &mut out.reading;
        reading.pending_max = read.pending_max.map_or(reading.pending_max, usize::from);
        reading.batch_max = read.batch_max.unwrap_or(reading.batch_max);
        Ok(out)
    }

    fn for_lanes(self, layout: &Layout) -> LaneFeedOptions {
        LaneFeedOptions {
            stream: layout.stream.clone(),
            lanes: layout.lanes,
            look_with: "rabbitmqadmin get queue=STREAM.CONSUMER.LANE",
            tell_every: LOOK_EVERY,
            gap_patience: redelivered_within(&self.stream),
            reading: self.reading,
        }
    }
}

/// Deliveries that come from a stream.
///
/// Of each lane at most one arrival is handed out at a time. Dropping the feed closes it, in the
/// background; [`Closer::close`] does it in the open.
pub struct RabbitFeed(LaneFeed);

impl RabbitFeed {
    /// Connects, creates the stream and the receiver's queues if they are missing, and begins to share the
    /// lanes.
    ///
    /// # Errors
    /// As [`RabbitSink::connect`](crate::RabbitSink::connect).
    pub async fn open(options: RabbitFeedOptions) -> Result<Self> {
        options.stream.check()?;
        options.reading.check()?;
        let server = Server::new(&options.stream, "onewrite feed")?;
        let layout = stream::open(&server, &options.stream).await?;
        let consumer = options.reading.consumer.clone();
        // Now, and not only when a lane is opened: until then nothing keeps its messages for this receiver.
        for lane in 0..layout.lanes {
            stream::create_queue(&server, &layout, &consumer, lane).await?;
        }
        let lanes = RabbitLanes {
            announcer: Server::new(&options.stream, "onewrite feed's announcements")?,
            known: (0..layout.lanes).map(|_| Known::default()).collect(),
            pending_max: u16::try_from(options.reading.pending_max).unwrap_or(u16::MAX),
            options: options.stream.clone(),
            server,
            consumer,
            layout,
        };
        let options = options.for_lanes(&lanes.layout);
        Ok(Self(LaneFeed::open(lanes, options)))
    }

    /// A handle that closes the feed, wherever the feed itself has gone.
    #[must_use]
    pub fn closer(&self) -> Closer {
        self.0.closer()
    }
}

impl Feed for RabbitFeed {
    fn next(&mut self) -> BoxFuture<'_, Option<Box<dyn Arrival>>> {
        self.0.next()
    }
}

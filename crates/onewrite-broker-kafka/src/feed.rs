//! Receiving: the lanes of a stream, shared among the processes of a receiver by leases.

use std::{sync::Arc, time::Duration};

use onewrite_core::{
    BoxFuture, Result,
    broker::{Arrival, Feed},
};
use onewrite_lanes::{Closer, LaneFeed, LaneFeedOptions, Reading};

use crate::{
    StreamOptions,
    connect::Server,
    lanes::KafkaLanes,
    stream::{self, Layout},
    url,
};

/// How often a lane is looked at for being full.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// How long a missing predecessor is waited for: nothing is delivered again here by itself.
const GAP_PATIENCE: Duration = Duration::from_secs(10);

/// How a receiver reads a stream.
#[derive(Debug, Clone)]
pub struct KafkaFeedOptions {
    /// The topic.
    pub stream: StreamOptions,
    /// What the receiver decides: its name is that of the group, which nobody else may join. A missing
    /// predecessor is announced after 10 s, unless said otherwise.
    pub reading: Reading,
}

impl KafkaFeedOptions {
    /// The defaults for a topic.
    #[must_use]
    pub fn new(stream: StreamOptions, reading: Reading) -> Self {
        Self { stream, reading }
    }

    /// Reads `kafka[+ssl]://[user:password@]host[:9092][,host2:9092]/TOPIC[?lanes=8&pending_max=2000&…]`.
    /// What it says about reading counts. Options of the publishing half are read past.
    ///
    /// # Errors
    /// [`InvalidConfig`](onewrite_core::Code::InvalidConfig), naming the part, never a secret;
    /// [`UnsafeSetting`](onewrite_core::Code::UnsafeSetting) for a server far away without TLS.
    pub fn from_url(url: &str, reading: Reading) -> Result<Self> {
        let read = url::parse(url)?;
        let mut out = Self::new(read.stream, reading);
        let reading = &mut out.reading;
        reading.gap_patience = read.gap_patience.or(reading.gap_patience);
        reading.pending_max = read.pending_max.unwrap_or(reading.pending_max);
        reading.batch_max = read.batch_max.unwrap_or(reading.batch_max);
        Ok(out)
    }

    fn check(&self) -> Result<()> {
        self.stream.check()?;
        self.reading.check()
    }

    fn for_lanes(self, layout: &Layout) -> LaneFeedOptions {
        LaneFeedOptions {
            stream: layout.stream.clone(),
            lanes: layout.lanes,
            look_with: "kafka-console-consumer.sh --bootstrap-server … --topic TOPIC --partition LANE --offset N --max-messages 1",
            tell_every: TELL_EVERY,
            gap_patience: GAP_PATIENCE,
            reading: self.reading,
        }
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
        let lanes = KafkaLanes::new(server, &options.stream, layout.clone(), &options.reading)?;
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

//! Receiving from the lanes of a stream: a [`Feed`] for any broker that has them.

use std::{sync::Arc, time::Duration};

use onewrite_core::{
    BoxFuture, Text,
    broker::{Arrival, Feed},
};
use tokio::sync::{mpsc, watch};

use crate::{
    arrival::LaneArrival, broker::Lanes, lane_task::Shared, reading::Reading, sharing::Sharing,
};

/// The lanes of a stream, and how a receiver reads them.
#[derive(Debug, Clone)]
pub struct LaneFeedOptions {
    /// The stream's name, for leases, metrics and the log.
    pub stream: Text,
    /// How many lanes the stream has.
    pub lanes: u16,
    /// The command that shows an operator a message, for the log.
    pub look_with: &'static str,
    /// How often the broker hears of messages that are still held.
    pub tell_every: Duration,
    /// How long a missing predecessor is waited for, unless the receiver decides it.
    pub gap_patience: Duration,
    /// What the receiver decides.
    pub reading: Reading,
}

/// Deliveries that come from the lanes of a stream.
///
/// Of each lane at most one arrival is handed out at a time. Dropping the feed closes it, in the
/// background; [`Closer::close`] does it in the open.
pub struct LaneFeed {
    arrivals: mpsc::UnboundedReceiver<LaneArrival>,
    closer: Closer,
}

impl LaneFeed {
    /// Begins to share and to read the lanes of `broker`.
    pub fn open<L: Lanes>(broker: L, options: LaneFeedOptions) -> Self {
        let (sender, arrivals) = mpsc::unbounded_channel();
        let (close, closing) = watch::channel(false);
        let (end, ended) = watch::channel(false);
        let sharing = Sharing::new(Shared { broker, options }, sender);
        tokio::spawn(async move {
            sharing.run(closing).await;
            end.send_replace(true);
        });
        Self { arrivals, closer: Closer { close: Arc::new(close), ended } }
    }

    /// A handle that closes the feed, wherever the feed itself has gone.
    #[must_use]
    pub fn closer(&self) -> Closer {
        self.closer.clone()
    }
}

impl Drop for LaneFeed {
    fn drop(&mut self) {
        self.closer.begin();
    }
}

impl Feed for LaneFeed {
    fn next(&mut self) -> BoxFuture<'_, Option<Box<dyn Arrival>>> {
        Box::pin(async {
            let arrival = self.arrivals.recv().await?;
            Some(Box::new(arrival) as Box<dyn Arrival>)
        })
    }
}

/// Ends a feed.
#[derive(Debug, Clone)]
pub struct Closer {
    close: Arc<watch::Sender<bool>>,
    ended: watch::Receiver<bool>,
}

impl Closer {
    /// Begins to close: no more arrivals are made. Those that wait are still handed out by
    /// [`Feed::next`], then comes the end.
    pub fn begin(&self) {
        self.close.send_replace(true);
    }

    /// Closes, and resolves once every arrival is settled or dropped, what is left has gone back to the
    /// broker, and the leases are given back. Arrivals that nobody takes must be dropped with the feed.
    pub async fn close(&self) {
        self.begin();
        let mut ended = self.ended.clone();
        // Should the task be gone, it is closed as well.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

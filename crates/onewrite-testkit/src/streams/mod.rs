//! What every broker with a stream has to survive, as cases that each of them runs.
//!
//! A broker implements [`Stream`] and calls the macros, which make one test of each case:
//!
//! ```ignore
//! onewrite_testkit::stream_suite!(Orders);
//! onewrite_testkit::takeover_suite!(Orders, Duration::from_secs(28));
//! onewrite_testkit::proxy_suite!(Orders);
//! onewrite_testkit::crash_suite!(Orders);
//! ```
//!
//! The third is for servers that can be reached through a proxy, the last for those that keep their data
//! through a kill. They need the feature `sabotage`, for what shows that they would notice.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a case fails by panicking")]

pub mod hazards;
mod losing;
pub mod sharing;
mod suite;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use onewrite_core::{
    Delivery,
    broker::{Feed, Receipt, Sink},
    retry::Backoff,
    store::Store,
};
use onewrite_lanes::{Announcement, Closer, Reading};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::{
    history::Verdict,
    rig::{Consumer, Source, unique},
};

/// A stream of 8 lanes at a broker, between a source and a receiver called `payments`. Its server lives as
/// long as this.
pub trait Stream: Send + Sync + Sized + 'static {
    /// What publishes to it.
    type Sink: Sink + 'static;
    /// What reads it.
    type Feed: Feed + 'static;

    /// The event that is lost on its way, after its sender heard that it was stored: for servers that let
    /// nobody take away what they have ([`Self::lose_one`] does nothing then).
    const LOSES: Option<&'static str> = None;

    /// A new stream, on a server that others may use as well.
    fn start() -> impl Future<Output = Self> + Send;

    /// A new stream on a server of its own.
    fn alone() -> impl Future<Output = Self> + Send {
        Self::start()
    }

    /// Where its server listens.
    fn address(&self) -> SocketAddr;

    /// Its URL, through whatever listens at `address`; no answer is waited for longer than a second, and
    /// what nobody answers for comes again soon.
    fn url_at(&self, address: SocketAddr) -> String;

    /// Its URL, where the broker delivers again only after a minute what nobody answers for.
    fn patient_url(&self) -> String {
        self.url()
    }

    /// Its URL, where the next process soon gets what a dead one held.
    fn takeover_url(&self) -> String {
        self.patient_url()
    }

    /// Its URL.
    fn url(&self) -> String {
        self.url_at(self.address())
    }

    /// Opens what publishes.
    fn sink(url: &str) -> impl Future<Output = Self::Sink> + Send;

    /// Opens what reads.
    fn feed(url: &str, reading: Reading) -> impl Future<Output = Self::Feed> + Send;

    /// What closes it.
    fn closer(feed: &Self::Feed) -> Closer;

    /// Takes a message away that the server has stored for the receiver, and that has a successor in its
    /// partition.
    fn lose_one(&self) -> impl Future<Output = ()> + Send;

    /// What receivers announce from now on.
    fn announced(&self) -> impl Future<Output = mpsc::UnboundedReceiver<Announcement>> + Send;

    /// Stores a delivery, whatever was stored before.
    fn append(&self, delivery: &Delivery) -> impl Future<Output = ()> + Send {
        let batch = [delivery.clone()];
        async move {
            let receipts = Self::sink(&self.url()).await.publish(&batch).await.unwrap();
            assert_eq!(receipts, [Receipt::Accepted]);
        }
    }

    /// Stores, as somebody else's program, what is no event, and twice the event `f1` of `elsewhere`.
    fn foreign(&self) -> impl Future<Output = ()> + Send;
}

/// A server that can be killed, and has its data afterwards.
pub trait Crash: Stream {
    /// Kills it with SIGKILL.
    fn kill(&self);

    /// Starts it again.
    fn restart(&self) -> impl Future<Output = ()> + Send;
}

/// A source and a receiver at the two ends of a stream.
pub struct Shop<B> {
    /// The stream.
    pub broker: B,
    /// One end.
    pub source: Source,
    /// The other.
    pub consumer: Consumer,
    folder: TempDir,
}

impl<B: Stream> Shop<B> {
    /// On a server that others may use as well.
    pub async fn new() -> Self {
        Self::on(B::start().await).await
    }

    /// With this stream between them.
    pub async fn on(broker: B) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (source, consumer) = (Source::open(folder.path()), Consumer::open(folder.path()).await);
        Self { broker, source, consumer, folder }
    }

    /// Where the databases are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What publishes.
    pub async fn sink(&self) -> B::Sink {
        B::sink(&self.broker.url()).await
    }

    /// What reads.
    pub async fn feed(&self) -> B::Feed {
        self.feed_at(&self.broker.url()).await
    }

    /// What reads through another URL.
    pub async fn feed_at(&self, url: &str) -> B::Feed {
        B::feed(url, reading("payments", self.consumer.store(), &unique("feed"))).await
    }
}

/// How to read without losing time.
pub fn reading(consumer: &'static str, store: Arc<dyn Store>, owner: &str) -> Reading {
    Reading {
        lease_ttl: Duration::from_millis(600),
        backoff: Backoff { initial: Duration::from_millis(2), cap: Duration::from_millis(100) },
        gap_patience: Some(Duration::from_secs(1)),
        ..Reading::new(consumer, store, owner.to_owned())
    }
}

/// Refuses what was lost, doubled or out of order.
pub fn assert_clean(verdict: &Verdict) {
    assert!(verdict.is_clean(), "{verdict}");
}

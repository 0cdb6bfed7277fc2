//! The promises of a feed.

use std::sync::Arc;

use onewrite_core::{
    BoxFuture,
    broker::{Arrival, Feed, Sink},
};
use onewrite_lanes::LaneFeed;
use onewrite_testkit::conformance::BrokerFixture;

use crate::{log::Log, reading::Receiver};

onewrite_testkit::feed_cases!(tests, InMemory);

/// A stream with one lane, so that what was sent together arrives together.
struct InMemory;

/// Keeps the receiver's database as long as the feed.
struct Kept(LaneFeed, #[expect(dead_code, reason = "kept")] Receiver);

impl Kept {
    fn feed(log: &Log) -> Self {
        let receiver = Receiver::new();
        Self(receiver.feed(log, "one"), receiver)
    }
}

impl Feed for Kept {
    fn next(&mut self) -> BoxFuture<'_, Option<Box<dyn Arrival>>> {
        self.0.next()
    }
}

impl BrokerFixture for InMemory {
    fn pair(&self) -> BoxFuture<'_, (Arc<dyn Sink>, Box<dyn Feed>)> {
        Box::pin(async {
            let log = Log::new(1);
            let feed = Kept::feed(&log);
            (Arc::new(log) as Arc<dyn Sink>, Box::new(feed) as Box<dyn Feed>)
        })
    }

    fn closed(&self) -> BoxFuture<'_, Option<Box<dyn Feed>>> {
        Box::pin(async {
            let feed = Kept::feed(&Log::new(1));
            feed.0.closer().close().await;
            Some(Box::new(feed) as Box<dyn Feed>)
        })
    }
}

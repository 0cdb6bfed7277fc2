//! The promises of the brokers without a network: the memory queue in both halves, standard output and
//! nothing as publishers.

mod broken;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use onewrite_broker_local::{MemoryFeed, MemorySink, NullSink, StdoutSink, memory};
use onewrite_core::{
    BoxFuture,
    broker::{Feed, Sink},
};
use onewrite_testkit::conformance::{self, BrokerFixture};

onewrite_testkit::broker_suite!(Memory);

struct Memory;

/// Both ends of a queue of its own.
fn fresh() -> (MemorySink, MemoryFeed) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    memory(format!("conformance-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

impl BrokerFixture for Memory {
    fn pair(&self) -> BoxFuture<'_, (Arc<dyn Sink>, Box<dyn Feed>)> {
        let (sink, feed) = fresh();
        Box::pin(std::future::ready((Arc::new(sink) as _, Box::new(feed) as _)))
    }
}

#[tokio::test]
async fn nothing_takes_all_and_counts() {
    let null = NullSink::default();
    conformance::sink::alone(&null).await;
    assert!(null.deliveries() >= 9, "{} of them", null.deliveries());
    assert!(null.bytes() > 0);
}

#[tokio::test]
async fn standard_output_takes_all() {
    conformance::sink::alone(&StdoutSink).await;
}

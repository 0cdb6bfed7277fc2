//! `null:`: counts and discards.

use std::sync::atomic::{AtomicU64, Ordering};

use onewrite_core::{
    BoxFuture, Delivery, Result,
    broker::{Receipt, Sink},
};

/// Accepts everything and keeps nothing but the count.
#[derive(Debug, Default)]
pub struct NullSink {
    deliveries: AtomicU64,
    bytes: AtomicU64,
}

impl NullSink {
    /// Deliveries accepted so far.
    #[must_use]
    pub fn deliveries(&self) -> u64 {
        self.deliveries.load(Ordering::Relaxed)
    }

    /// Bytes of data accepted so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Sink for NullSink {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        let bytes: usize = batch.iter().map(|delivery| delivery.record.event.data.len()).sum();
        self.deliveries.fetch_add(batch.len() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        Box::pin(std::future::ready(Ok(vec![Receipt::Accepted; batch.len()])))
    }
}

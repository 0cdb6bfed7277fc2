//! A sink whose server loses one message after it answered for it, as a failover can.

use std::sync::atomic::{AtomicBool, Ordering};

use onewrite_core::{
    BoxFuture, Delivery, Incarnation, Partition, Result, Sequence,
    broker::{Receipt, Sink},
};

/// Loses the event of this id once, if there is one.
pub(crate) struct Losing<S> {
    sink: S,
    id: Option<&'static str>,
    lost: AtomicBool,
}

impl<S: Sink> Losing<S> {
    pub(crate) fn new(sink: S, id: Option<&'static str>) -> Self {
        Self { sink, id, lost: AtomicBool::new(false) }
    }
}

impl<S: Sink> Sink for Losing<S> {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        Box::pin(async {
            let at = batch.iter().position(|delivery| self.id == Some(delivery.record.id()));
            let Some(at) = at.filter(|_| !self.lost.load(Ordering::Relaxed)) else {
                return self.sink.publish(batch).await;
            };
            let mut others = batch.to_vec();
            others.remove(at);
            let mut receipts = self.sink.publish(&others).await?;
            receipts.insert(at, Receipt::Accepted);
            self.lost.store(true, Ordering::Relaxed);
            Ok(receipts)
        })
    }

    fn gaps(&self, source: &str, life: Incarnation) -> Vec<(Partition, Sequence)> {
        self.sink.gaps(source, life)
    }
}

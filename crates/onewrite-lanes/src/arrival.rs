//! A batch of one lane on its way through a receiver.

use onewrite_core::{
    BoxFuture, Code, Delivery, Error, Result,
    broker::{Arrival, Receipt},
};
use tokio::sync::oneshot;

/// A batch of one lane.
pub(crate) struct LaneArrival {
    deliveries: Vec<Delivery>,
    count: usize,
    reply: oneshot::Sender<Vec<Receipt>>,
}

impl LaneArrival {
    /// The batch, and where its receipts will come; nowhere when it is dropped.
    pub(crate) fn new(deliveries: Vec<Delivery>) -> (Self, oneshot::Receiver<Vec<Receipt>>) {
        let (reply, receipts) = oneshot::channel();
        (Self { count: deliveries.len(), deliveries, reply }, receipts)
    }
}

impl Arrival for LaneArrival {
    fn take(&mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.deliveries)
    }

    /// Passes the receipts on to the lane, which answers the broker. That the broker hears it is not
    /// known here: if not, it delivers again.
    fn settle(self: Box<Self>, receipts: Vec<Receipt>) -> BoxFuture<'static, Result<()>> {
        let settled = if receipts.len() == self.count {
            if self.reply.send(receipts).is_err() {
                tracing::debug!("the lane has another owner by now, who gets the batch again");
            }
            Ok(())
        } else {
            let context = format!("{} receipts for {} deliveries", receipts.len(), self.count);
            Err(Error::new(Code::InvariantBroken, context))
        };
        Box::pin(std::future::ready(settled))
    }
}

//! Re-driving a relay's parked keys: from the front, one event at a time, deduplicated by id.

use onewrite_core::{
    Delivery, Result, Text,
    broker::Receipt,
    lease::Fence,
    parking::{ParkedKey, Request},
    record::Order,
    store::{Batch, Durability, Item, Op, Outcome},
};

use super::Driver;

impl Driver {
    /// Carries out what operators asked for, for the keys of partitions held here.
    pub(crate) async fn redrive(&mut self) -> Result<()> {
        let scope = self.policy_scope();
        for key in self.store.parked_keys(Some(&scope)).await? {
            let fence = self.machine.fence(key.partition);
            if let (Some(fence), true) = (fence, key.request != Request::Wait)
                && let Err(error) = self.redrive_key(&key, &fence).await
            {
                tracing::warn!(%error, "a parked key was not re-driven");
            }
        }
        Ok(())
    }

    async fn redrive_key(&mut self, key: &ParkedKey, fence: &Fence) -> Result<()> {
        while let Some(front) = self.store.parked_records(key, 1).await?.pop() {
            if self.renewal_is_due() {
                // The rest follows after the leases are renewed.
                return Ok(());
            }
            if key.request == Request::Retry {
                let delivery = Delivery { record: front.record, order: Order::ById };
                // No answer says nothing about the event: the request stands, and is tried again later.
                let receipts = self.sink.publish(std::slice::from_ref(&delivery)).await?;
                if let Some(reason) = receipts.into_iter().next().and_then(refusal) {
                    let (scope, source, key) =
                        (key.scope.clone(), key.source.clone(), key.key.clone());
                    self.write(
                        fence,
                        Op::Request {
                            scope,
                            source,
                            key,
                            request: Request::Wait,
                            reason: Some(reason),
                        },
                    )
                    .await?;
                    return Ok(());
                }
            }
            let (scope, source) = (key.scope.clone(), key.source.clone());
            let op = Op::Unpark { scope, source, key: key.key.clone(), position: front.position };
            match self.write(fence, op).await? {
                Some(0) => {
                    self.machine.freed(key.partition, &key.key);
                    return Ok(());
                }
                Some(_) => {}
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Writes one operation; `None` when the lease is gone.
    async fn write(&mut self, fence: &Fence, op: Op) -> Result<Option<u64>> {
        let item = Item { fence: Some(fence.clone()), ops: vec![op] };
        let batch = Batch { durability: Durability::Durable, items: vec![item] };
        match self.store.commit(batch).await?.pop() {
            Some(Outcome::Applied(count)) => Ok(Some(count)),
            Some(Outcome::Failed(error)) => Err(error),
            _ => {
                self.machine.lost(fence.partition);
                Ok(None)
            }
        }
    }
}

/// Why a re-driven event was not taken, if it was not.
fn refusal(receipt: Receipt) -> Option<Text> {
    match receipt {
        Receipt::Accepted | Receipt::Duplicate => None,
        Receipt::Retry(reason) | Receipt::Refused(reason) => Some(reason),
        _ => Some("the sink did not take it".into()),
    }
}

//! The receiver: brings arrivals to the inbox, and carries out what operators ask of parked keys.

use std::{collections::HashSet, sync::Arc, time::Duration};

use onewrite_core::{
    Delivery, Partition, Result, Text,
    broker::{Arrival, Feed, Receipt},
    failpoint,
    inbox::{Attempt, Inbox, Lane, closed, plan},
};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{Shutdown, sweeper::pause};

/// How a receiver works.
#[derive(Debug, Clone, Copy)]
pub struct ReceiverOptions {
    /// Deliveries handled in one transaction at most: bounds how long other writes wait.
    pub transaction_max: usize,
    /// Arrivals handled at the same time.
    pub arrivals_max: usize,
    /// How often to look for operators' requests and old ids.
    pub look_every: Duration,
}

impl Default for ReceiverOptions {
    fn default() -> Self {
        Self { transaction_max: 500, arrivals_max: 16, look_every: Duration::from_millis(500) }
    }
}

/// Drives an inbox with a feed.
pub struct Receiver {
    inbox: Arc<dyn Inbox>,
    options: ReceiverOptions,
}

impl Receiver {
    /// A receiver for `inbox`. Several may run on the same database, in any number of processes.
    pub fn new(inbox: Arc<dyn Inbox>, options: ReceiverOptions) -> Self {
        Self { inbox, options }
    }

    /// Receives until the feed ends or the shutdown begins; what is in work is finished.
    pub async fn run(self, mut feed: Box<dyn Feed>, shutdown: Shutdown) {
        let receiver = Arc::new(self);
        let chores = tokio::spawn(Arc::clone(&receiver).chores(shutdown.clone()));
        let room = Arc::new(Semaphore::new(receiver.options.arrivals_max.max(1)));
        let mut work = JoinSet::new();
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { break };
            let next =
                tokio::select! { arrival = feed.next() => arrival, () = shutdown.begun() => None };
            let Some(arrival) = next else { break };
            let receiver = Arc::clone(&receiver);
            work.spawn(async move {
                receiver.handle(arrival).await;
                drop(permit);
            });
            while work.try_join_next().is_some() {}
        }
        work.join_all().await;
        chores.abort();
    }

    async fn handle(&self, mut arrival: Box<dyn Arrival>) {
        let deliveries = arrival.take();
        let consumer = self.inbox.policy().consumer.to_string();
        let receipts = match self.receive(deliveries).await {
            Ok(receipts) => receipts,
            Err(error) => {
                // Dropping the arrival leaves the outcome unknown: the sender sends again.
                metrics::counter!("onewrite_receiver_failures_total", "consumer" => consumer)
                    .increment(1);
                tracing::warn!(%error, "a batch was not received");
                return;
            }
        };
        let count = |wanted: &dyn Fn(&Receipt) -> bool| {
            receipts.iter().filter(|receipt| wanted(receipt)).count() as u64
        };
        metrics::counter!("onewrite_receiver_accepted_total", "consumer" => consumer.clone())
            .increment(count(&|receipt| *receipt == Receipt::Accepted));
        metrics::counter!("onewrite_receiver_duplicates_total", "consumer" => consumer.clone())
            .increment(count(&|receipt| *receipt == Receipt::Duplicate));
        metrics::counter!("onewrite_receiver_gaps_total", "consumer" => consumer.clone())
            .increment(count(&|receipt| matches!(receipt, Receipt::Gap { .. })));
        if count(&|receipt| *receipt == Receipt::Diverged) > 0 {
            metrics::counter!("onewrite_receiver_diverged_total", "consumer" => consumer)
                .increment(1);
            tracing::error!(
                "OW0013: a source delivers other records than it did before: it went back in time"
            );
        }
        if let Err(error) = arrival.settle(receipts).await {
            tracing::debug!(%error, "a sender did not wait for its receipts");
        }
    }

    /// Receives one batch: what is settled is committed when this returns.
    ///
    /// # Errors
    /// What the inbox's database says; nothing is known about the batch then, and sending it again is
    /// harmless.
    pub async fn receive(&self, deliveries: Vec<Delivery>) -> Result<Vec<Receipt>> {
        let attempts = Attempt::of(&deliveries);
        let counted = self.inbox.attempt(attempts.clone(), false).await?;
        failpoint::hit("receiver.after_attempt_before_handler");
        let mut receipts = vec![Receipt::Blocked; deliveries.len()];
        let mut closed_now: HashSet<(Text, Partition)> = HashSet::new();
        let is_closed = |now: &HashSet<(Text, Partition)>, index: usize| {
            now.contains(&Lane::of(&deliveries[index]).partition())
        };
        for group in plan(&deliveries, &attempts, &counted) {
            if group.indexes.iter().all(|index| is_closed(&closed_now, *index)) {
                continue;
            }
            let alone =
                group.attempts.iter().any(|attempt| !was_counted(attempt, &attempts, &counted));
            if alone {
                self.inbox.attempt(group.attempts.clone(), true).await?;
            }
            for indexes in group.indexes.chunks(self.options.transaction_max.max(1)) {
                // What one transaction did not take closes its partition for those behind it.
                let indexes: Vec<usize> = indexes
                    .iter()
                    .copied()
                    .filter(|index| !is_closed(&closed_now, *index))
                    .collect();
                let chunk: Vec<Delivery> =
                    indexes.iter().map(|index| deliveries[*index].clone()).collect();
                if chunk.is_empty() {
                    continue;
                }
                let done = self.inbox.receive(chunk.clone(), group.attempts.clone()).await?;
                closed_now.extend(closed(&chunk, &done));
                for (index, receipt) in indexes.into_iter().zip(done) {
                    receipts[index] = receipt;
                }
            }
        }
        failpoint::hit("receiver.after_commit_before_reply");
        Ok(receipts)
    }

    async fn chores(self: Arc<Self>, shutdown: Shutdown) {
        while !shutdown.has_begun() {
            if let Err(error) = self.redrive().await {
                tracing::warn!(%error, "parked keys were not re-driven");
            }
            if let Err(error) = self.inbox.forget().await {
                tracing::warn!(%error, "old ids were not forgotten");
            }
            pause(self.options.look_every, &shutdown).await;
        }
    }

    /// Carries out operators' requests: each key from its front, one event at a time.
    async fn redrive(&self) -> Result<()> {
        for key in self.inbox.requested().await? {
            let mut waiting = u64::MAX;
            // Until it is empty, refused, or somebody else's: then nothing was taken away.
            while let Ok(left) = self.inbox.redrive(key.clone()).await? {
                if left == 0 || left >= waiting {
                    break;
                }
                waiting = left;
            }
        }
        Ok(())
    }
}

fn was_counted<T>(attempt: &Attempt, attempts: &[Attempt], counted: &[(T, bool)]) -> bool {
    attempts.iter().zip(counted).any(|(own, (_, counted))| own == attempt && *counted)
}

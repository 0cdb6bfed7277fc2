//! The contract of a broker, in its two halves: a [`Sink`] takes deliveries away, a [`Feed`] brings
//! them in. The conformance suite has a test of the same name for each numbered promise.

use std::collections::HashSet;

use crate::{BoxFuture, Delivery, Incarnation, Partition, Result, Sequence, Text, inbox::Lane};

/// What became of one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receipt {
    /// Durably taken over: the sender is done with it.
    Accepted,
    /// Known already; nothing was done. The sender is done with it.
    Duplicate,
    /// Not taken now: the same delivery may succeed later. Nothing behind it in its partition was
    /// taken either.
    Retry(Text),
    /// The receiver does not want this event, whatever is tried. Counts as an attempt.
    Refused(Text),
    /// Not looked at, because something before it in its partition was not taken.
    Blocked,
    /// Its predecessor is missing: the receiver's mark is `have`. The sender goes back there.
    Gap {
        /// The last sequence the receiver has in this partition.
        have: Sequence,
    },
    /// The receiver has another record at this very sequence: the source went back in time.
    Diverged,
}

impl Receipt {
    /// Whether the sender is done with the delivery.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(self, Self::Accepted | Self::Duplicate)
    }
}

/// Keeps [`Sink`]'s promise of a prefix whatever the other side took: behind the first delivery of a
/// lane that is not settled, all of that lane are [`Receipt::Blocked`]. Sending again what was taken
/// there is harmless, stepping over the one before it is not.
pub fn keep_prefix(batch: &[Delivery], receipts: &mut [Receipt]) {
    let mut stopped: HashSet<Lane> = HashSet::new();
    for (delivery, receipt) in batch.iter().zip(receipts) {
        if receipt.is_settled() && stopped.is_empty() {
            continue;
        }
        let lane = Lane::of(delivery);
        if stopped.contains(&lane) {
            *receipt = Receipt::Blocked;
        } else if !receipt.is_settled() {
            stopped.insert(lane);
        }
    }
}

/// What a receiver has of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The partition.
    pub partition: Partition,
    /// The last sequence applied.
    pub sequence: Sequence,
    /// The id of the event applied there.
    pub last_id: Text,
}

/// Where deliveries go.
///
/// 1. **order**: within a partition, deliveries are taken in the order given.
/// 2. **prefix**: in each partition the settled receipts form a prefix; nothing behind an unsettled
///    delivery is taken.
/// 3. **durable**: a settled receipt survives the receiver's crash.
/// 4. **unknown**: an `Err` says that nothing is known about any delivery of the batch; sending the
///    same batch again is harmless for a receiver that keeps the inbox's rules.
/// 5. **aligned**: receipts come in the order of the deliveries, one each.
/// 6. **cancel**: dropping the future leaves every outcome unknown and breaks nothing.
pub trait Sink: Send + Sync {
    /// Hands over `batch` and reports what became of each delivery.
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>>;

    /// The receiver's marks for one life of `source`, where the receiver keeps marks. `None` when it
    /// does not or cannot say; a sender then relies on the chain alone.
    fn marks<'a>(
        &'a self,
        source: &'a str,
        life: Incarnation,
    ) -> BoxFuture<'a, Result<Option<Vec<Mark>>>> {
        let _ = (source, life);
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Partitions whose receivers said, since the last call and outside a publish, that a predecessor is
    /// missing, each with the last sequence they have: a broker in between may have lost it. Receivers
    /// repeat it as long as they wait.
    fn gaps(&self, source: &str, life: Incarnation) -> Vec<(Partition, Sequence)> {
        let _ = (source, life);
        Vec::new()
    }

    /// Settings of the broker that weaken a promise, each as one sentence with its cure.
    fn warnings(&self) -> BoxFuture<'_, Result<Vec<Text>>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
}

/// A batch that has arrived and waits for its receipts.
pub trait Arrival: Send {
    /// What arrived, in order within each partition. Call once; later calls return nothing.
    fn take(&mut self) -> Vec<Delivery>;

    /// Reports what became of each delivery, in the same order. Dropping the arrival instead leaves
    /// every outcome unknown to the sender, who will send again.
    fn settle(self: Box<Self>, receipts: Vec<Receipt>) -> BoxFuture<'static, Result<()>>;
}

/// Where deliveries come from.
///
/// 1. **order**: within a partition, arrivals keep the order of the sender.
/// 2. **redelivery**: what was not settled arrives again, as long as the sender holds it.
/// 3. **no early end**: `None` only after the feed was closed.
/// 4. **cancel**: dropping the future of `next` loses nothing that `settle` had not confirmed.
pub trait Feed: Send {
    /// The next batch; `None` once the feed is closed.
    fn next(&mut self) -> BoxFuture<'_, Option<Box<dyn Arrival>>>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, Record, record::Order};

    fn delivery(incarnation: u64, partition: Partition, sequence: Sequence) -> Delivery {
        let event = Event::new("Happened", "Thing", "k");
        let incarnation = Incarnation(incarnation);
        let record = Record { source: "shop".into(), incarnation, partition, sequence, event };
        Delivery { record, order: Order::Chained { previous: sequence - 1 } }
    }

    fn kept<const N: usize>(batch: &[Delivery; N], mut receipts: [Receipt; N]) -> [Receipt; N] {
        keep_prefix(batch, &mut receipts);
        receipts
    }

    #[test]
    fn nothing_is_settled_behind_what_was_not_taken() {
        use Receipt::{Accepted, Blocked, Duplicate, Gap, Refused};
        let batch = [(0, 1), (1, 1), (0, 2), (1, 2), (0, 3)].map(|(at, n)| delivery(7, at, n));
        let all = [Accepted, Duplicate, Accepted, Accepted, Duplicate];
        assert_eq!(kept(&batch, all.clone()), all);
        let refused = || Refused("too large".into());
        assert_eq!(
            kept(&batch, [refused(), Accepted, Accepted, Gap { have: 0 }, refused()]),
            [refused(), Accepted, Blocked, Gap { have: 0 }, Blocked]
        );
    }

    #[test]
    fn another_life_of_the_same_partition_goes_on() {
        use Receipt::{Accepted, Blocked};
        let batch = [delivery(7, 0, 1), delivery(8, 0, 1), delivery(7, 0, 2)];
        assert_eq!(kept(&batch, [Blocked, Accepted, Accepted]), [Blocked, Accepted, Blocked]);
    }
}

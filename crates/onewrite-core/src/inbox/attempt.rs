//! Attempts are stored before the handler runs, so that an event that kills its process is found.
//!
//! A calm batch is claimed as a whole, with one write. A lane whose last claim did not end well is
//! suspicious: its records are then claimed one by one, after everybody else's, so that the culprit is
//! caught with its next death and its neighbours are not blamed.

use std::collections::HashSet;

use super::{Lane, LaneState};
use crate::{Delivery, Partition, Sequence, Text, broker::Receipt, record::Order};

/// A claim on the records of one lane from `first` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The lane.
    pub lane: Lane,
    /// The first sequence claimed.
    pub first: Sequence,
    /// It displaced an unfinished claim that begins elsewhere, perhaps of another sender: this batch
    /// may hold records that the other sender gave up and will send outside the stream.
    pub contended: bool,
}

/// Deliveries that share one transaction: indexes into the batch, with what is claimed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    /// Which deliveries, in order.
    pub indexes: Vec<usize>,
    /// What is claimed; nothing for a group of duplicates and foreign events.
    pub attempts: Vec<Attempt>,
}

impl Attempt {
    /// What a batch claims: the first record of each of its lanes.
    #[must_use]
    pub fn of(deliveries: &[Delivery]) -> Vec<Self> {
        let mut attempts: Vec<Self> = Vec::new();
        let mut seen = HashSet::new();
        for delivery in deliveries {
            if matches!(delivery.order, Order::ById) {
                continue;
            }
            let lane = Lane::of(delivery);
            if seen.insert(lane.clone()) {
                attempts.push(Self { lane, first: delivery.record.sequence, contended: false });
            }
        }
        attempts
    }
}

/// Splits a batch: the calm lanes together, then the records of each suspicious lane one by one, the
/// least suspicious lane first. What is not taken closes its lane for those behind it ([`closed`]).
#[must_use]
pub fn plan(
    deliveries: &[Delivery],
    attempts: &[Attempt],
    counted: &[(LaneState, bool)],
) -> Vec<Group> {
    let mut suspicious: Vec<(&LaneState, &Attempt)> = attempts
        .iter()
        .zip(counted)
        .filter(|(_, (_, counted))| !counted)
        .map(|(attempt, (state, _))| (state, attempt))
        .collect();
    suspicious.sort_by_key(|(state, _)| state.attempts);
    if suspicious.is_empty() {
        return vec![Group {
            indexes: (0..deliveries.len()).collect(),
            attempts: attempts.to_vec(),
        }];
    }
    // A key's order goes on through the lives of its source: another life of a suspicious partition waits.
    let is_suspicious =
        |lane: &Lane| suspicious.iter().any(|(_, own)| own.lane.partition() == lane.partition());
    let is_calm = |index: &usize| {
        let delivery = &deliveries[*index];
        matches!(delivery.order, Order::ById) || !is_suspicious(&Lane::of(delivery))
    };
    let calm = Group {
        indexes: (0..deliveries.len()).filter(is_calm).collect(),
        attempts: attempts
            .iter()
            .filter(|attempt| !is_suspicious(&attempt.lane))
            .cloned()
            .collect(),
    };
    let mut seen = HashSet::new();
    let partitions = suspicious.iter().map(|(_, attempt)| attempt.lane.partition());
    let partitions = partitions.filter(|partition| seen.insert(partition.clone()));
    let partitions: Vec<_> = partitions.collect();
    let alone = partitions.iter().flat_map(|partition| {
        let own = |index: &usize| {
            !is_calm(index) && Lane::of(&deliveries[*index]).partition() == *partition
        };
        (0..deliveries.len()).filter(own).map(|index| {
            let (lane, first) = (Lane::of(&deliveries[index]), deliveries[index].record.sequence);
            let displaced = |(state, attempt): &(&LaneState, &Attempt)| {
                attempt.lane == lane && state.attempt_first != attempt.first
            };
            let contended = suspicious.iter().any(displaced);
            Group { indexes: vec![index], attempts: vec![Attempt { lane, first, contended }] }
        })
    });
    std::iter::once(calm).filter(|group| !group.indexes.is_empty()).chain(alone).collect()
}

/// The partitions of which nothing more of a batch may be handled once `deliveries`, a part of it, got
/// `receipts`. For a driver that spreads a batch over several transactions: what lies behind in such a
/// partition stays [`Receipt::Blocked`], as it would in one transaction.
#[must_use]
pub fn closed(deliveries: &[Delivery], receipts: &[Receipt]) -> HashSet<(Text, Partition)> {
    deliveries
        .iter()
        .zip(receipts)
        .filter(|(delivery, receipt)| {
            let repeated = **receipt == Receipt::Duplicate && delivery.order != Order::ById;
            repeated || !receipt.is_settled()
        })
        .map(|(delivery, _)| Lane::of(delivery).partition())
        .collect()
}

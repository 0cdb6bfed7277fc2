//! The relay machine: moves one sink's cursors along the log. Facts in, effects out.
//!
//! It guarantees that within a partition deliveries go out in sequence order, that each names its
//! predecessor in the stream, that a cursor moves only behind settled deliveries, and that a record is
//! parked durably before anything behind it goes out. It does not guarantee a single delivery: what
//! was sent and not settled is sent again.
//!
//! The driver keeps one offer in flight: `wanted` → read → `offer` → publish → `published` → commit →
//! `committed`. It may read the next page while an offer is in flight. It sends nothing more for a
//! lane before the commit is known: that is how a sender that lost its lease finds out, and receivers
//! count on it (see [`crate::inbox`]).

mod lane;
mod offer;
mod settle;

use std::collections::BTreeMap;

pub use offer::{Offer, gap_id};
pub use settle::{Alarm, Settled};

use self::lane::Lane;
use crate::{
    Partition, Sequence, Text, Timestamp,
    lease::{Fence, Scope},
    position::{START, Source},
    retry::Backoff,
    sabotage::{Defect, Sabotage},
    store::{Cursor, Item, Op},
};

/// The type of the event that tells a receiver of records it will never get: the log no longer holds
/// what lies between the receiver's mark and this event's sequence.
pub const GAP_KIND: Text = Text::from_static("io.onewrite.gap");

/// How a relay treats its sink.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The sink's name: names its cursors and leases.
    pub sink: Text,
    /// Pauses between attempts of one partition.
    pub backoff: Backoff,
    /// A record refused so often parks its key.
    pub attempts_max: u32,
    /// Defects planted by tests.
    pub sabotage: Sabotage,
}

impl Policy {
    /// The namespace of this sink's leases and parked keys.
    #[must_use]
    pub fn scope(&self) -> Scope {
        format!("relay/{}", self.sink).into()
    }
}

/// The machine of one relay and one sink.
#[derive(Debug)]
pub struct Relay {
    policy: Policy,
    scope: Scope,
    source: Source,
    lanes: BTreeMap<Partition, Lane>,
    /// Deleted from the log up to here, in this partition.
    trimmed: BTreeMap<Partition, Sequence>,
    /// Lanes made so far.
    lives: u64,
}

impl Relay {
    /// A relay of `source` without leases.
    #[must_use]
    pub fn new(policy: Policy, source: Source) -> Self {
        let scope = policy.scope();
        Self { policy, scope, source, lanes: BTreeMap::new(), trimmed: BTreeMap::new(), lives: 0 }
    }

    /// Learns the highest sequence that was deleted from the log in `partition`.
    pub fn trimmed(&mut self, partition: Partition, sequence: Sequence) {
        let known = self.trimmed.entry(partition).or_insert(START);
        *known = sequence.max(*known);
    }

    /// Learns which leases it holds, and reads the cursors of new ones. A lane whose epoch changed
    /// was lost in between and starts over at its cursor. Returns the partitions that are new.
    pub fn leased(&mut self, held: &[Fence], cursors: &[Cursor]) -> Vec<Partition> {
        let epochs: BTreeMap<_, _> =
            held.iter().map(|fence| (fence.partition, fence.epoch)).collect();
        self.lanes.retain(|partition, lane| epochs.get(partition) == Some(&lane.epoch));
        let mut new = Vec::new();
        for cursor in cursors {
            let Some(epoch) = epochs.get(&cursor.partition) else { continue };
            if let std::collections::btree_map::Entry::Vacant(free) =
                self.lanes.entry(cursor.partition)
            {
                self.lives += 1;
                free.insert(Lane::at(cursor, *epoch, self.lives));
                new.push(cursor.partition);
            }
        }
        new
    }

    /// Whether every lease of `held` has its lane already, so that no cursor need be read.
    #[must_use]
    pub fn knows(&self, held: &[Fence]) -> bool {
        held.iter().all(|fence| {
            self.lanes.get(&fence.partition).is_some_and(|lane| lane.epoch == fence.epoch)
        })
    }

    /// The partitions it holds.
    pub fn partitions(&self) -> impl Iterator<Item = Partition> + '_ {
        self.lanes.keys().copied()
    }

    /// Its right to write for `partition`, if it holds it.
    #[must_use]
    pub fn fence(&self, partition: Partition) -> Option<Fence> {
        let lane = self.lanes.get(&partition)?;
        Some(Fence { scope: self.scope.clone(), partition, epoch: lane.epoch })
    }

    /// Gives up to `count` idle lanes back, noting how far they were looked through.
    pub fn give_back(&mut self, count: usize) -> Vec<Item> {
        let idle: Vec<Partition> = self
            .lanes
            .iter()
            .filter(|(_, lane)| lane.is_idle())
            .map(|(partition, _)| *partition)
            .take(count)
            .collect();
        idle.into_iter()
            .filter_map(|partition| {
                let fence = self.fence(partition)?;
                let lane = self.lanes.remove(&partition)?;
                let mut ops = Vec::new();
                if lane.settled > lane.noted {
                    ops.push(lane.move_cursor(&self.policy, partition));
                }
                ops.push(Op::Release(fence.clone()));
                Some(Item { fence: Some(fence), ops })
            })
            .collect()
    }

    /// Notes how far lanes were looked through that had nothing to deliver, so that retention can
    /// follow. Called now and then; what is not noted is looked through again. A lane whose record is
    /// failing is left out: moving its cursor would clear the attempts stored for the next owner.
    pub fn checkpoint(&mut self) -> Vec<Item> {
        let scope = &self.scope;
        let policy = &self.policy;
        self.lanes
            .iter_mut()
            .filter(|(_, lane)| lane.settled > lane.noted && !lane.holding && !lane.is_failing())
            .map(|(partition, lane)| {
                lane.noted = lane.settled;
                let fence =
                    Fence { scope: scope.clone(), partition: *partition, epoch: lane.epoch };
                Item { fence: Some(fence), ops: vec![lane.move_cursor(policy, *partition)] }
            })
            .collect()
    }

    /// The partitions to read now, each behind what was offered.
    #[must_use]
    pub fn wanted(&self, now: Timestamp) -> Vec<(Partition, Sequence)> {
        self.lanes
            .iter()
            .filter(|(_, lane)| lane.is_ready(now))
            .map(|(partition, lane)| (*partition, lane.offered))
            .collect()
    }

    /// When the next paused partition goes on.
    #[must_use]
    pub fn resume_at(&self) -> Option<Timestamp> {
        self.lanes.values().filter(|lane| !lane.stopped).filter_map(|lane| lane.resume_at).min()
    }

    /// Learns that a write for `partition` is durable: a lane held for it goes on.
    pub fn committed(&mut self, partition: Partition) {
        if let Some(lane) = self.lanes.get_mut(&partition) {
            lane.holding = false;
        }
    }

    /// Learns that a write for `partition` was refused or that its outcome is unknown: the lane starts
    /// over from its stored cursor with the next claim.
    pub fn lost(&mut self, partition: Partition) {
        self.lanes.remove(&partition);
    }

    /// Forgets every lane: each starts over from its stored cursor with the next claim.
    pub fn start_over(&mut self) {
        self.lanes.clear();
    }

    /// Learns that a parked key was freed. Not to be called while a parking of this partition waits
    /// for its commit: which of the two came first would not be known.
    pub fn freed(&mut self, partition: Partition, key: &Text) {
        if let Some(lane) = self.lanes.get_mut(&partition) {
            lane.parked.remove(key);
        }
    }

    /// Learns the receiver's mark in `partition` and what the source knows about it: `head` is the
    /// highest sequence ever drawn, `id_here` the id of the source's record at the mark. A receiver
    /// that knows more than its source stops the lane.
    pub fn compare(
        &mut self,
        partition: Partition,
        mark: (Sequence, &str),
        head: Sequence,
        id_here: Option<&str>,
    ) -> Option<Alarm> {
        let ahead = mark.0 > head || id_here.is_some_and(|id| !mark.1.is_empty() && id != mark.1);
        if !ahead || self.policy.sabotage.has(Defect::NoIncarnation) {
            return None;
        }
        self.lanes.get_mut(&partition)?.stopped = true;
        Some(Alarm::SinkAhead(partition))
    }

    /// Where a lane stands: settled up to, last delivered, failed attempts.
    #[must_use]
    pub fn lane(&self, partition: Partition) -> Option<(Sequence, Sequence, u32)> {
        self.lanes.get(&partition).map(|lane| (lane.settled, lane.chain, lane.attempts))
    }
}

#[cfg(test)]
#[path = "machine_test.rs"]
mod machine_test;

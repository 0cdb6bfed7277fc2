//! One leased partition of a relay.

use std::collections::HashSet;

use super::Policy;
use crate::{
    Partition, Record, Sequence, Text, Timestamp,
    lease::{Epoch, Fence, Scope},
    store::{Cursor, Item, Op},
};

#[derive(Debug, Clone)]
pub(super) struct Lane {
    pub(super) epoch: Epoch,
    /// Which of this relay's lanes it is: an offer of an earlier one says nothing about this one.
    pub(super) life: u64,
    /// Settled up to here: delivered, parked, or not wanted.
    pub(super) settled: Sequence,
    /// The stored cursor, as far as this owner moved it.
    pub(super) noted: Sequence,
    /// The last one delivered in the stream and settled.
    pub(super) chain: Sequence,
    /// Offered up to here; the next page must start here. Ahead of `settled` while in flight.
    pub(super) offered: Sequence,
    /// Verdicts against the record behind `settled`.
    pub(super) attempts: u32,
    /// Offers in a row that failed without a verdict: they lengthen the pause and blame no record.
    pub(super) stalls: u32,
    pub(super) resume_at: Option<Timestamp>,
    pub(super) parked: HashSet<Text>,
    /// A parking waits for its commit: nothing may go out before it is durable.
    pub(super) holding: bool,
    /// Stopped until an operator acts: the receiver is ahead of the source.
    pub(super) stopped: bool,
}

impl Lane {
    pub(super) fn at(cursor: &Cursor, epoch: Epoch, life: u64) -> Self {
        Self {
            epoch,
            life,
            settled: cursor.sequence,
            noted: cursor.sequence,
            chain: cursor.chain,
            offered: cursor.sequence,
            attempts: cursor.attempts,
            stalls: 0,
            resume_at: cursor.retry_at,
            parked: cursor.parked.iter().cloned().collect(),
            holding: false,
            stopped: false,
        }
    }

    /// Nothing in flight, nothing waiting for a commit.
    pub(super) fn is_idle(&self) -> bool {
        self.offered == self.settled && !self.holding
    }

    pub(super) fn is_ready(&self, now: Timestamp) -> bool {
        !self.holding && !self.stopped && self.resume_at.is_none_or(|time| time <= now)
    }

    /// Forgets the failures of a record that is settled.
    pub(super) fn calm(&mut self) {
        self.attempts = 0;
        self.stalls = 0;
        self.resume_at = None;
    }

    /// Whether the store holds failures that moving the cursor would clear.
    pub(super) fn is_failing(&self) -> bool {
        self.attempts > 0 || self.stalls > 0
    }

    /// Goes back to what its receiver has, and sends the rest again.
    pub(super) fn fall_back(
        &mut self,
        policy: &Policy,
        partition: Partition,
        have: Sequence,
    ) -> Op {
        (self.settled, self.offered, self.chain, self.noted) = (have, have, have, have);
        self.calm();
        self.move_cursor(policy, partition)
    }

    pub(super) fn move_cursor(&self, policy: &Policy, partition: Partition) -> Op {
        Op::MoveCursor {
            sink: policy.sink.clone(),
            partition,
            sequence: self.settled,
            chain: self.chain,
        }
    }

    /// Parks `record` and passes it, held until that is durable: were something behind it delivered
    /// first and this owner died, the next one would deliver it below the receiver's mark.
    pub(super) fn park(
        &mut self,
        policy: &Policy,
        scope: &Scope,
        record: &Record,
        reason: &str,
    ) -> Item {
        let (partition, sequence) = (record.partition, record.sequence);
        self.holding = true;
        self.calm();
        self.offered = sequence;
        self.settled = sequence;
        self.noted = sequence;
        self.parked.insert(record.event.order_key().clone());
        let park =
            Op::Park { sink: policy.sink.clone(), partition, sequence, reason: reason.into() };
        let fence = Fence { scope: scope.clone(), partition, epoch: self.epoch };
        Item { fence: Some(fence), ops: vec![park, self.move_cursor(policy, partition)] }
    }
}

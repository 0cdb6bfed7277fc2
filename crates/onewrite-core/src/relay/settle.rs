//! What a relay does with the receipts of an offer.

use std::collections::{BTreeMap, BTreeSet};

use super::{GAP_KIND, Offer, Relay, lane::Lane};
use crate::{
    Incarnation, Partition, Record, Sequence, Text, Timestamp,
    broker::Receipt,
    sabotage::Defect,
    store::{Item, Op},
};

/// Something the operator must hear about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alarm {
    /// The receiver has records at sequences the source has not drawn, or other ones.
    SinkAhead(Partition),
    /// The receiver is behind the cursor: its records are sent again from its mark.
    FellBack(Partition),
    /// A key was parked.
    Parked(Text),
}

/// What became of an offer.
#[derive(Debug, Default)]
pub struct Settled {
    /// To commit.
    pub items: Vec<Item>,
    /// Deliveries settled.
    pub settled: usize,
    /// To tell.
    pub alarms: Vec<Alarm>,
}

impl Relay {
    /// Learns what became of an offer: its receipts in order, or `None` when nothing is known, in
    /// which case all of it is sent again after a pause.
    pub fn published(
        &mut self,
        now: Timestamp,
        jitter: f64,
        offer: &Offer,
        receipts: Option<&[Receipt]>,
    ) -> Settled {
        let mut done = Settled::default();
        let mut failed: BTreeMap<Partition, (usize, Receipt)> = BTreeMap::new();
        let mut moved: BTreeSet<Partition> = BTreeSet::new();
        for (index, delivery) in offer.deliveries.iter().enumerate() {
            let partition = delivery.record.partition;
            if failed.contains_key(&partition) && !self.policy.sabotage.has(Defect::AckPastFailure)
            {
                continue;
            }
            let Some(lane) = self.offered_lane(offer, partition) else { continue };
            let receipt =
                receipts.and_then(|all| all.get(index)).cloned().unwrap_or(Receipt::Blocked);
            if receipt.is_settled() {
                lane.settled = delivery.record.sequence;
                lane.chain = delivery.record.sequence;
                lane.calm();
                done.settled += 1;
                moved.insert(partition);
            } else {
                failed.entry(partition).or_insert((index, receipt));
            }
        }
        for (partition, upto) in &offer.tails {
            if failed.contains_key(partition) {
                continue;
            }
            if let Some(lane) = self.offered_lane(offer, *partition) {
                lane.settled = lane.settled.max(*upto);
            }
        }
        for partition in &moved {
            let fence = self.fence(*partition);
            if let Some(lane) = self.lanes.get_mut(partition) {
                lane.noted = lane.settled;
                let ops = vec![lane.move_cursor(&self.policy, *partition)];
                done.items.push(Item { fence, ops });
            }
        }
        for (partition, (index, receipt)) in failed {
            let record = &offer.deliveries[index].record;
            if receipts.is_some() && receipt == Receipt::Blocked && moved.contains(&partition) {
                // Those before it were taken, so the sink is alive: it goes on at once.
                if let Some(lane) = self.lanes.get_mut(&partition) {
                    lane.offered = lane.settled;
                }
                continue;
            }
            let receipt = receipts.is_some().then_some(&receipt);
            self.set_back(now, jitter, record, receipt, &mut done);
        }
        done
    }

    /// Learns from outside a publish that the receiver of one life waits for what lies behind `have`: its
    /// broker may have lost that. The lane goes back there. Passed over while an offer is in flight: who
    /// waits says so again.
    pub fn waits(&mut self, partition: Partition, life: Incarnation, have: Sequence) -> Settled {
        let mut done = Settled::default();
        let fence = self.fence(partition);
        let first = self.source.first_of(life);
        let Some(lane) = self.lanes.get_mut(&partition) else { return done };
        let is_current = self.source.incarnation_at(lane.chain) == life;
        if have >= lane.chain || !is_current || !lane.is_idle() || lane.stopped {
            return done;
        }
        let have = have.max(first.saturating_sub(1));
        done.alarms.push(Alarm::FellBack(partition));
        let ops = vec![lane.fall_back(&self.policy, partition, have)];
        done.items.push(Item { fence, ops });
        done
    }

    /// The lane of `partition`, unless it was lost and leased again since `offer` was made: its new
    /// cursor may stand anywhere, and the receipts say nothing about what lies behind it.
    fn offered_lane(&mut self, offer: &Offer, partition: Partition) -> Option<&mut Lane> {
        let life = offer.lives.get(&partition)?;
        self.lanes.get_mut(&partition).filter(|lane| lane.life == *life)
    }

    /// `record` was not taken: set its lane back before it, and decide how to go on. Without a
    /// receipt nothing is known.
    fn set_back(
        &mut self,
        now: Timestamp,
        jitter: f64,
        record: &Record,
        receipt: Option<&Receipt>,
        done: &mut Settled,
    ) {
        let partition = record.partition;
        let fence = self.fence(partition);
        let Some(lane) = self.lanes.get_mut(&partition) else { return };
        lane.offered = lane.settled;
        let (reason, verdict): (Text, bool) = match receipt {
            // Only a verdict on this very record counts against its key: a dead sink parks nothing.
            Some(Receipt::Retry(reason) | Receipt::Refused(reason)) => (reason.clone(), true),
            Some(Receipt::Gap { have }) if *have < lane.chain => {
                let ops = vec![lane.fall_back(&self.policy, partition, *have)];
                done.alarms.push(Alarm::FellBack(partition));
                done.items.push(Item { fence, ops });
                return;
            }
            Some(Receipt::Gap { .. }) => ("the receiver waits for a predecessor".into(), false),
            Some(Receipt::Diverged) => {
                lane.stopped = true;
                done.alarms.push(Alarm::SinkAhead(partition));
                return;
            }
            Some(_) => ("the sink did not take it yet".into(), false),
            None => ("the sink did not answer".into(), false),
        };
        // A gap event is not in the log: parking it would let its receiver pass the gap unawares.
        if verdict && record.event.kind != GAP_KIND {
            lane.attempts += 1;
            if lane.attempts >= self.policy.attempts_max {
                let item = lane.park(&self.policy, &self.scope, record, &reason);
                done.items.push(item);
                done.alarms.push(Alarm::Parked(record.event.order_key().clone()));
                return;
            }
        } else {
            lane.stalls += 1;
        }
        let failures = lane.attempts.saturating_add(lane.stalls);
        let retry_at = now.plus(self.policy.backoff.pause(failures, jitter));
        lane.resume_at = Some(retry_at);
        let op = Op::FailCursor {
            sink: self.policy.sink.clone(),
            partition,
            attempts: lane.attempts,
            retry_at,
            reason,
        };
        done.items.push(Item { fence, ops: vec![op] });
    }
}

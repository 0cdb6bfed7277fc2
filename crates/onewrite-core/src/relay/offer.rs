//! How a page becomes an offer: which records go out, and what each names as its predecessor.

use std::collections::{BTreeMap, HashSet};

use super::{GAP_KIND, Relay, lane::Lane};
use crate::{
    Delivery, Event, Incarnation, Partition, Record, Sequence, Text,
    position::{START, Source},
    record::Order,
    sabotage::Defect,
    store::{Item, Page},
};

/// What one page asks of the driver.
#[derive(Debug, Default)]
pub struct Offer {
    /// To publish, in order.
    pub deliveries: Vec<Delivery>,
    /// To commit at once: keys to park.
    pub items: Vec<Item>,
    /// Lanes whose page ended in records that need no delivery: looked through up to here.
    pub(super) tails: Vec<(Partition, Sequence)>,
    /// The lanes it was made for: one that was lost and leased again since is another lane.
    pub(super) lives: BTreeMap<Partition, u64>,
}

impl Offer {
    /// Whether there is nothing to publish and nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.deliveries.is_empty() && self.items.is_empty() && self.tails.is_empty()
    }
}

impl Relay {
    /// Turns a page into deliveries. `asked` is what [`Self::wanted`] said when the page was read:
    /// lanes that were set back, stopped or lost since are left out, their records come again.
    pub fn offer(&mut self, asked: &[(Partition, Sequence)], page: Page) -> Offer {
        let mut offer = Offer::default();
        let mut open = HashSet::new();
        for (partition, after) in asked {
            let Some(lane) = self.lanes.get_mut(partition) else { continue };
            if lane.offered == *after && lane.is_idle() && !lane.stopped {
                lane.resume_at = None;
                offer.lives.insert(*partition, lane.life);
                open.insert(*partition);
            }
        }
        for record in page.records {
            let partition = record.partition;
            if open.contains(&partition) && !self.take(&mut offer, record) {
                open.remove(&partition);
            }
        }
        for (partition, upto) in page.upto {
            let lost = self.trimmed.get(&partition).copied().unwrap_or(START);
            let Some(lane) = self.lanes.get_mut(&partition) else { continue };
            // A lane that owes its receiver a gap event stays before it until a record follows.
            let owes_gap = lane.is_idle() && lane.settled < lost;
            if open.contains(&partition) && upto > lane.offered && !owes_gap {
                lane.offered = upto;
                offer.tails.push((partition, upto));
            }
        }
        offer
    }

    /// Takes one record of an open lane into `offer`. Says whether the page goes on for this lane.
    fn take(&mut self, offer: &mut Offer, record: Record) -> bool {
        let lost = self.trimmed.get(&record.partition).copied().unwrap_or(START);
        let lost = lost.min(record.sequence.saturating_sub(1));
        let Some(lane) = self.lanes.get_mut(&record.partition) else { return false };
        // Before anything else, parking included: passing the record would hide the gap.
        if lane.is_idle() && lane.settled < lost {
            deliver(offer, lane, &self.source, gap_record(&record, lost));
        }
        let is_parked = lane.parked.contains(record.event.order_key());
        if !is_parked || self.policy.sabotage.has(Defect::NoParking) {
            deliver(offer, lane, &self.source, record);
            return true;
        }
        // It goes behind its key's others. What goes out before it is settled first: the page ends
        // here for this lane.
        if lane.is_idle() {
            let reason = "its key is parked";
            offer.items.push(lane.park(&self.policy, &self.scope, &record, reason));
        }
        false
    }
}

fn deliver(offer: &mut Offer, lane: &mut Lane, source: &Source, record: Record) {
    let last = if lane.is_idle() { lane.chain } else { lane.offered };
    // Each life of a source starts its own stream: its receivers keep a mark for each.
    let same_life = last != START && source.incarnation_at(last) == record.incarnation;
    lane.offered = record.sequence;
    let order = Order::Chained { previous: if same_life { last } else { START } };
    offer.deliveries.push(Delivery { record, order });
}

/// The id of the gap event at one place: the same whenever it is told.
#[must_use]
pub fn gap_id(life: Incarnation, partition: Partition, sequence: Sequence) -> Text {
    format!("gap-{life}-{partition}-{sequence}").into()
}

/// The event that stands for records up to `sequence` that the log no longer holds, before `next`.
fn gap_record(next: &Record, sequence: Sequence) -> Record {
    let mut event = Event::new(GAP_KIND, "onewrite", next.source.clone())
        .key(format!("gap-{}", next.partition));
    event.id = Some(gap_id(next.incarnation, next.partition, sequence));
    event.time = next.event.time;
    Record { event, sequence, ..next.clone() }
}

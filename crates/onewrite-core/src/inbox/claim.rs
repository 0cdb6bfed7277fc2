//! The inbox machine: what becomes of each delivery of a claimed batch, inside one transaction.

use std::collections::{HashMap, HashSet};

use super::{Attempt, Lane, LaneState, Policy};
use crate::{
    Delivery, Incarnation, Partition, Text, broker::Receipt, record::Order, relay::GAP_KIND,
    sabotage::Defect,
};

/// What the driver does next, in the same transaction. Indexes point into the claimed deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Insert the event's id among those seen. Answer [`Fact::Fresh`].
    Remember(usize),
    /// Delete the event's id again: it was refused and is to come back. Answer [`Fact::Forgotten`].
    Forget(usize),
    /// Look whether its key is parked. Answer [`Fact::Parked`].
    LookParked(usize),
    /// Run the handler within a savepoint. Answer [`Fact::Handled`].
    Handle(usize),
    /// Append it to its key's parked records, and say why. Answer [`Fact::Stored`].
    Park(usize, Text),
    /// Write the lanes that changed, and commit.
    Done,
}

/// What the driver found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The transaction has begun.
    Begun,
    /// Whether the id was new.
    Fresh(bool),
    /// The id is forgotten.
    Forgotten,
    /// Whether the key is parked.
    Parked(bool),
    /// The handler's verdict: nothing, or why it refused (its savepoint is rolled back).
    Handled(Option<Text>),
    /// The record is parked.
    Stored,
}

/// What stays in order: a partition in whichever life, for a key's order goes on through the lives of its
/// source. The life is there only with [`Defect::OrderWithinLife`].
type Stream = (Text, Partition, Option<Incarnation>);

#[derive(Debug)]
struct Held {
    state: LaneState,
    changed: bool,
    /// Somebody else claimed as well, or this was sent before: its sender may have given a record up
    /// by now, which then also comes re-driven. Ids are remembered beside the mark.
    contended: bool,
}

/// One claimed batch on its way through one transaction. The driver runs [`Claim::step`] until
/// [`Effect::Done`], writes [`Claim::changed`], commits, and only then reports [`Claim::receipts`].
#[derive(Debug)]
pub struct Claim<'a> {
    policy: &'a Policy,
    deliveries: &'a [Delivery],
    lanes: HashMap<Lane, Held>,
    /// Streams of which something was not taken.
    stopped: HashSet<Stream>,
    /// Lanes of which this batch repeats something.
    repeated: HashSet<Lane>,
    any_parked: bool,
    /// The record at hand had its id remembered.
    remembered: bool,
    /// Why the record at hand was refused.
    refusal: Option<Text>,
    receipts: Vec<Receipt>,
}

enum Next {
    Ask(Effect),
    Receipt(Receipt),
}

impl<'a> Claim<'a> {
    /// A claim on `deliveries`, given the stored states of the lanes of all of them (an empty one where
    /// there is no row), read in this transaction and locked against others. `attempts` is what this claim counted; `any_parked` whether any
    /// key of this consumer is parked.
    #[must_use]
    pub fn new(
        policy: &'a Policy,
        deliveries: &'a [Delivery],
        attempts: &[Attempt],
        states: Vec<(Lane, LaneState)>,
        any_parked: bool,
    ) -> Self {
        let lanes = states
            .into_iter()
            .map(|(lane, state)| {
                let own = attempts.iter().find(|attempt| attempt.lane == lane);
                let displaced =
                    own.is_none_or(|own| own.contended || own.first != state.attempt_first);
                let contended = displaced || state.attempts > 1;
                (lane, Held { state, changed: false, contended })
            })
            .collect();
        let receipts = Vec::with_capacity(deliveries.len());
        Self {
            policy,
            deliveries,
            lanes,
            stopped: HashSet::new(),
            repeated: HashSet::new(),
            any_parked,
            remembered: false,
            refusal: None,
            receipts,
        }
    }

    /// Goes on with what the driver found; says what to do next.
    pub fn step(&mut self, fact: Fact) -> Effect {
        let mut fact = Some(fact);
        loop {
            let index = self.receipts.len();
            let Some(delivery) = self.deliveries.get(index) else { return Effect::Done };
            let next = match fact.take() {
                None | Some(Fact::Begun) => self.first_look(index, delivery),
                Some(Fact::Fresh(fresh)) => self.looked_up(index, delivery, fresh),
                Some(Fact::Forgotten) => {
                    Next::Receipt(Receipt::Retry(self.refusal.take().unwrap_or_default()))
                }
                Some(Fact::Parked(true)) => {
                    Next::Ask(Effect::Park(index, "its key is parked".into()))
                }
                Some(Fact::Parked(false)) => self.handle(index, delivery),
                Some(Fact::Stored | Fact::Handled(None)) => {
                    self.settle(delivery, Receipt::Accepted)
                }
                Some(Fact::Handled(Some(reason))) => self.refused(index, delivery, reason),
            };
            match next {
                Next::Ask(effect) => return effect,
                Next::Receipt(receipt) => {
                    if !receipt.is_settled() {
                        self.stopped.insert(self.stream(delivery));
                    }
                    self.remembered = false;
                    self.receipts.push(receipt);
                }
            }
        }
    }

    /// The lanes whose row is to be written before the commit.
    pub fn changed(&self) -> impl Iterator<Item = (&Lane, &LaneState)> {
        self.lanes.iter().filter(|(_, held)| held.changed).map(|(lane, held)| (lane, &held.state))
    }

    /// What became of each delivery, true once the transaction is committed.
    #[must_use]
    pub fn receipts(self) -> Vec<Receipt> {
        self.receipts
    }

    fn first_look(&mut self, index: usize, delivery: &Delivery) -> Next {
        let lane = Lane::of(delivery);
        let past_failure = self.stopped.contains(&self.stream(delivery));
        if past_failure && !self.policy.sabotage.has(Defect::AckPastFailure) {
            return Next::Receipt(Receipt::Blocked);
        }
        let by_mark = self.policy.sabotage.has(Defect::RedriveByMark);
        let previous = match delivery.order {
            Order::Chained { previous } => previous,
            Order::ById if by_mark => delivery.record.sequence.saturating_sub(1),
            Order::ById => return Next::Ask(Effect::Remember(index)),
        };
        let held = self.lanes.entry(lane).or_insert_with(|| Held {
            state: LaneState::default(),
            changed: false,
            contended: false,
        });
        let sequence = delivery.record.sequence;
        if sequence <= held.state.sequence && !self.policy.sabotage.has(Defect::NoDedup) {
            let another =
                sequence == held.state.sequence && held.state.last_id != delivery.record.id();
            let diverged = another && !self.policy.sabotage.has(Defect::NoIncarnation);
            self.repeated.insert(Lane::of(delivery));
            return Next::Receipt(if diverged { Receipt::Diverged } else { Receipt::Duplicate });
        }
        // A late request of a sender that lost its lease begins with what its successor has settled:
        // perhaps not by delivering, but by parking, and then the rest of that key has to wait for a
        // re-drive. Only a sender that may still move its cursor past the duplicates sends the rest.
        if self.repeated.contains(&Lane::of(delivery)) {
            return Next::Receipt(Receipt::Blocked);
        }
        let unchained = past_failure || self.policy.sabotage.has(Defect::NoChain);
        if previous > held.state.sequence && !unchained {
            return Next::Receipt(Receipt::Gap { have: held.state.sequence });
        }
        if delivery.record.event.kind == GAP_KIND {
            if self.policy.accept_gaps {
                return self.settle(delivery, Receipt::Accepted);
            }
            held.state.gap = sequence;
            held.changed = true;
            return Next::Receipt(Receipt::Retry(
                "OW0017: records before this one are gone; see `onewrite gap list`".into(),
            ));
        }
        if held.contended || sequence <= held.state.redriven {
            return Next::Ask(Effect::Remember(index));
        }
        self.look_parked(index, delivery)
    }

    fn stream(&self, delivery: &Delivery) -> Stream {
        let Lane { source, incarnation, partition } = Lane::of(delivery);
        let ends_with_life = self.policy.sabotage.has(Defect::OrderWithinLife);
        (source, partition, ends_with_life.then_some(incarnation))
    }

    fn looked_up(&mut self, index: usize, delivery: &Delivery, fresh: bool) -> Next {
        if !fresh && !self.policy.sabotage.has(Defect::NoDedup) {
            return self.settle(delivery, Receipt::Duplicate);
        }
        self.remembered = fresh;
        self.look_parked(index, delivery)
    }

    fn look_parked(&mut self, index: usize, delivery: &Delivery) -> Next {
        // A record re-driven by its sender queues up as well: what is parked here came before it, for
        // its sender holds back everything of the key behind it.
        if self.any_parked && !self.policy.sabotage.has(Defect::NoParking) {
            return Next::Ask(Effect::LookParked(index));
        }
        self.handle(index, delivery)
    }

    fn handle(&mut self, index: usize, delivery: &Delivery) -> Next {
        let state = self.state_at(delivery);
        match state.filter(|state| state.attempts > self.policy.attempts_max) {
            Some(state) => {
                let reason =
                    format!("the receiver ended {} times while handling it", state.attempts - 1);
                self.any_parked = true;
                Next::Ask(Effect::Park(index, reason.into()))
            }
            None => Next::Ask(Effect::Handle(index)),
        }
    }

    fn refused(&mut self, index: usize, delivery: &Delivery, reason: Text) -> Next {
        if matches!(delivery.order, Order::Chained { .. }) {
            let sequence = delivery.record.sequence;
            let attempts = self.state_at(delivery).map_or(1, |state| state.attempts);
            if attempts >= self.policy.attempts_max {
                self.any_parked = true;
                return Next::Ask(Effect::Park(index, reason));
            }
            if let Some(held) = self.lanes.get_mut(&Lane::of(delivery)) {
                held.state.attempt_first = sequence;
                held.state.attempts = attempts;
                held.changed = true;
            }
        }
        if self.remembered {
            // Left among those seen, it would be a duplicate when it comes back.
            self.refusal = Some(reason);
            return Next::Ask(Effect::Forget(index));
        }
        Next::Receipt(Receipt::Retry(reason))
    }

    /// The lane's state if its attempts were counted for this very record.
    fn state_at(&self, delivery: &Delivery) -> Option<&LaneState> {
        let held = self.lanes.get(&Lane::of(delivery))?;
        let chained = matches!(delivery.order, Order::Chained { .. });
        (chained && held.state.attempt_first == delivery.record.sequence).then_some(&held.state)
    }

    fn settle(&mut self, delivery: &Delivery, receipt: Receipt) -> Next {
        // A lane that was not read is not written either: its row would lose its mark.
        if let Some(held) = self.lanes.get_mut(&Lane::of(delivery)) {
            let sequence = delivery.record.sequence;
            match delivery.order {
                Order::Chained { .. } => {
                    held.state.sequence = sequence;
                    held.state.last_id = delivery.record.event.id.clone().unwrap_or_default();
                    held.changed = true;
                }
                Order::ById if sequence > held.state.redriven => {
                    held.state.redriven = sequence;
                    held.changed = true;
                }
                Order::ById => {}
            }
        }
        Next::Receipt(receipt)
    }
}

#[cfg(test)]
#[path = "claim_test.rs"]
mod claim_test;

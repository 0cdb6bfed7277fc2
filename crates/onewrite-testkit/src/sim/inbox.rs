//! The receivers' database of the simulated world: atomic, serialised transactions around the inbox
//! machine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use onewrite_core::{
    Delivery, Record, Text,
    broker::Receipt,
    inbox::{Attempt, Claim, Effect, Fact, Lane, LaneState, Policy},
    sabotage::Defect,
};

/// What a handler does with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It takes effect.
    Fine,
    /// The handler refuses it.
    Refuse,
    /// The process ends.
    Kill,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) retry: bool,
    pub(super) records: VecDeque<Record>,
}

#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) policy: Policy,
    lanes: BTreeMap<Lane, LaneState>,
    ids: BTreeSet<Text>,
    pub(super) parked: BTreeMap<Text, Queue>,
    /// Committed effects, as key and id.
    pub(super) effects: Vec<(Text, Text)>,
}

/// What one transaction has written so far.
#[derive(Default)]
struct Staged {
    remembered: BTreeSet<Text>,
    parked: Vec<Record>,
    effects: Vec<(Text, Text)>,
}

impl Inbox {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            policy,
            lanes: BTreeMap::new(),
            ids: BTreeSet::new(),
            parked: BTreeMap::new(),
            effects: Vec::new(),
        }
    }

    /// Counts claims, as [`onewrite_core::inbox::Inbox::attempt`] promises.
    pub(super) fn attempt(&mut self, attempts: &[Attempt], again: bool) -> Vec<(LaneState, bool)> {
        let forgets = self.policy.sabotage.has(Defect::NoAttempts);
        let count = |attempt: &Attempt| {
            let state = self.lanes.entry(attempt.lane.clone()).or_default();
            let counted = forgets || state.claim(attempt.first, again);
            (state.clone(), counted)
        };
        attempts.iter().map(count).collect()
    }

    /// One transaction. `None` when the process ended in it: nothing of it is left, unless the mark
    /// is committed first by the defect of that name.
    pub(super) fn receive(
        &mut self,
        deliveries: &[Delivery],
        attempts: &[Attempt],
        mut handler: impl FnMut(&Record) -> Verdict,
        ends_early: bool,
    ) -> Option<Vec<Receipt>> {
        let lanes: BTreeSet<Lane> = deliveries.iter().map(Lane::of).collect();
        let state = |lane: &Lane| self.lanes.get(lane).cloned().unwrap_or_default();
        let states = lanes.into_iter().map(|lane| (lane.clone(), state(&lane))).collect();
        let policy = self.policy.clone();
        let mut claim = Claim::new(&policy, deliveries, attempts, states, !self.parked.is_empty());
        let mut staged = Staged::default();
        let mut fact = Fact::Begun;
        loop {
            fact = match claim.step(fact) {
                Effect::Remember(at) => {
                    let id = id(&deliveries[at].record);
                    Fact::Fresh(!self.ids.contains(&id) && staged.remembered.insert(id))
                }
                Effect::Forget(at) => {
                    staged.remembered.remove(&id(&deliveries[at].record));
                    Fact::Forgotten
                }
                Effect::LookParked(at) => {
                    let key = deliveries[at].record.event.order_key();
                    let now = staged.parked.iter().any(|record| record.event.order_key() == key);
                    Fact::Parked(now || self.parked.contains_key(key))
                }
                Effect::Handle(at) => match handler(&deliveries[at].record) {
                    Verdict::Fine => {
                        staged.effects.push(effect(&deliveries[at].record));
                        Fact::Handled(None)
                    }
                    Verdict::Refuse => Fact::Handled(Some("refused".into())),
                    Verdict::Kill => return None,
                },
                Effect::Park(at, _) => {
                    staged.parked.push(deliveries[at].record.clone());
                    Fact::Stored
                }
                Effect::Done => break,
            };
        }
        let lanes: Vec<_> =
            claim.changed().map(|(lane, state)| (lane.clone(), state.clone())).collect();
        if ends_early {
            if self.policy.sabotage.has(Defect::MarkBeforeEffect) {
                self.lanes.extend(lanes);
            }
            return None;
        }
        self.lanes.extend(lanes);
        self.ids.append(&mut staged.remembered);
        self.effects.append(&mut staged.effects);
        for record in staged.parked {
            let queue = self.parked.entry(record.event.order_key().clone()).or_default();
            queue.records.push_back(record);
        }
        Some(claim.receipts())
    }

    /// Hands the front record of a parked key to `handler`, in one transaction. Says whether the
    /// process ended.
    pub(super) fn redrive(
        &mut self,
        key: &Text,
        mut handler: impl FnMut(&Record) -> Verdict,
    ) -> Option<()> {
        let queue = self.parked.get_mut(key)?;
        let record = queue.records.front()?;
        match handler(record) {
            Verdict::Fine => {
                self.effects.push(effect(record));
                self.ids.insert(id(record));
                queue.records.pop_front();
                if queue.records.is_empty() {
                    self.parked.remove(key);
                }
                Some(())
            }
            Verdict::Refuse => {
                queue.retry = false;
                Some(())
            }
            Verdict::Kill => {
                queue.retry = false;
                None
            }
        }
    }
}

pub(super) fn id(record: &Record) -> Text {
    record.event.id.clone().unwrap_or_default()
}

fn effect(record: &Record) -> (Text, Text) {
    (record.event.order_key().clone(), id(record))
}

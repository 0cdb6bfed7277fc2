//! A relay process of the simulated world: drives the relay machine as a real driver does, one step
//! at each waking, with the world going on in between.

use onewrite_core::{
    Delivery, Partition, Sequence, Text, Timestamp,
    broker::Receipt,
    lease::Fence,
    parking::Request,
    record::Order,
    relay::{Offer, Policy, Relay},
    sabotage::Defect,
    store::{Item, Op, Outcome, Page},
};

use super::{
    store::{LEASE, SINK},
    world::{Event, Fault, MS, World},
};

/// One relay process.
#[derive(Debug)]
pub(super) struct Member {
    /// Unique for each life of each process: its owner name.
    pub(super) life: u64,
    machine: Relay,
    page: Option<(Vec<(Partition, Sequence)>, Page)>,
    flight: Option<Flight>,
    /// Decided and not yet sent to the store.
    todo: Vec<Item>,
    /// On its way to the store.
    writing: Option<u64>,
    claim_at: i64,
    checkpoint_at: i64,
}

#[derive(Debug)]
struct Flight {
    request: u64,
    what: What,
    /// The reply, once there is one: inside, nothing when there was none in time.
    reply: Option<Option<Vec<Receipt>>>,
}

#[derive(Debug)]
enum What {
    Offer(Offer),
    Redrive { key: Text, partition: Partition, position: Sequence },
}

impl Member {
    pub(super) fn new(life: u64, policy: Policy, world: &super::store::Store) -> Self {
        Self {
            life,
            machine: Relay::new(policy, world.source.clone()),
            page: None,
            flight: None,
            todo: Vec::new(),
            writing: None,
            claim_at: 0,
            checkpoint_at: 0,
        }
    }
}

impl World {
    /// One step of a relay.
    pub(super) fn relay_step(&mut self, at: usize) {
        let now = self.now;
        // Renewal may come between any two steps, or late: then it acts on old state for a while.
        if now >= self.members[at].claim_at && self.below(2) == 0 {
            return self.claim(at);
        }
        let member = &mut self.members[at];
        if member.writing.is_some() {
            return;
        }
        if !member.todo.is_empty() {
            let items = std::mem::take(&mut member.todo);
            return self.write(at, items);
        }
        if member.flight.as_ref().is_some_and(|flight| flight.reply.is_some()) {
            return self.settle(at);
        }
        if now >= member.claim_at {
            return self.claim(at);
        }
        if member.flight.is_none() {
            if member.page.is_some() {
                return self.offer(at);
            }
            if self.redrive(at) {
                return;
            }
        }
        let member = &mut self.members[at];
        if member.page.is_none() {
            let asked = member.machine.wanted(Timestamp(now));
            if !asked.is_empty() {
                let limit = 1 + self.below(6) as usize;
                let page = self.store.read(&asked, limit);
                self.members[at].page = Some((asked, page));
                return;
            }
        }
        let member = &mut self.members[at];
        if now >= member.checkpoint_at && member.flight.is_none() {
            member.checkpoint_at = now + 50 * MS;
            member.todo = member.machine.checkpoint();
        }
    }

    fn claim(&mut self, at: usize) {
        let member = &mut self.members[at];
        member.claim_at = self.now + LEASE / 3;
        let claimed = self.store.claim(self.now, member.life);
        let mut held = claimed.held;
        for (partition, sequence) in &self.store.deleted {
            member.machine.trimmed(*partition, *sequence);
        }
        let cursors = if member.machine.knows(&held) { Vec::new() } else { self.store.cursors() };
        held.sort_by_key(|fence: &Fence| fence.partition);
        let new = member.machine.leased(&held, &cursors);
        if claimed.give_back > 0 && member.writing.is_none() {
            member.todo.extend(member.machine.give_back(claimed.give_back));
        }
        let life = member.life;
        if !new.is_empty() {
            self.note(|| format!("relay {at}/{life} leased {new:?} of {held:?}"));
        }
    }

    fn offer(&mut self, at: usize) {
        let now = Timestamp(self.now);
        let member = &mut self.members[at];
        let Some((asked, page)) = member.page.take() else { return };
        let mut offer = member.machine.offer(&asked, page);
        if offer.is_empty() {
            return;
        }
        member.todo = std::mem::take(&mut offer.items);
        if self.options.sabotage.has(Defect::CursorBeforePublish) {
            let settled = vec![Receipt::Accepted; offer.deliveries.len()];
            let done = member.machine.published(now, 0.5, &offer, Some(&settled));
            member.todo.extend(done.items);
        }
        if offer.deliveries.is_empty() {
            let done = member.machine.published(now, 0.5, &offer, Some(&[]));
            member.todo.extend(done.items);
            return;
        }
        let request = self.send(at, offer.deliveries.clone());
        let life = self.members[at].life;
        self.note(|| {
            let sequences: Vec<_> =
                offer.deliveries.iter().map(|delivery| delivery.record.sequence).collect();
            format!("relay {at}/{life} sends request {request}: {sequences:?}")
        });
        self.members[at].flight = Some(Flight { request, what: What::Offer(offer), reply: None });
    }

    /// Re-drives the front record of a key an operator wants retried. Says whether it did.
    fn redrive(&mut self, at: usize) -> bool {
        let machine = &self.members[at].machine;
        let wanted = self.store.parked.iter().find(|(_, parked)| {
            parked.request == Request::Retry && machine.fence(parked.partition).is_some()
        });
        let Some((key, parked)) = wanted else { return false };
        let Some((position, record)) = parked.queue.first_key_value() else { return false };
        let (key, partition, position) = (key.clone(), parked.partition, *position);
        let delivery = Delivery { record: record.clone(), order: Order::ById };
        let request = self.send(at, vec![delivery]);
        self.note(|| format!("relay {at} re-drives {key}/{position} by request {request}"));
        let what = What::Redrive { key, partition, position };
        self.members[at].flight = Some(Flight { request, what, reply: None });
        true
    }

    /// A reply, or the end of the wait for it.
    pub(super) fn reply_arrives(
        &mut self,
        at: usize,
        life: u64,
        request: u64,
        receipts: Option<Vec<Receipt>>,
    ) {
        let member = &mut self.members[at];
        let flight = member.flight.as_mut().filter(|flight| flight.request == request);
        if let Some(flight) = flight.filter(|flight| flight.reply.is_none())
            && member.life == life
        {
            flight.reply = Some(receipts);
        }
    }

    fn settle(&mut self, at: usize) {
        let now = Timestamp(self.now);
        let jitter = self.below(1000) as f64 / 1000.0;
        let member = &mut self.members[at];
        let Some(Flight { request, what, reply: Some(reply) }) = member.flight.take() else {
            return;
        };
        let life = member.life;
        match what {
            What::Offer(offer) => {
                let done = member.machine.published(now, jitter, &offer, reply.as_deref());
                member.todo = done.items;
            }
            What::Redrive { key, partition, position } => {
                let fence = member.machine.fence(partition);
                let (scope, source) =
                    (format!("relay/{SINK}").into(), self.store.source.name.clone());
                let op = match reply.as_deref() {
                    Some([receipt]) if receipt.is_settled() => {
                        Op::Unpark { scope, source, key, position }
                    }
                    Some(_) => {
                        Op::Request { scope, source, key, request: Request::Wait, reason: None }
                    }
                    None => return,
                };
                if fence.is_some() {
                    member.todo = vec![Item { fence, ops: vec![op] }];
                }
            }
        }
        let todo = &self.members[at].todo;
        let note = format!("relay {at}/{life} settles {request} ({reply:?}): {todo:?}");
        self.note(|| note);
    }

    fn write(&mut self, at: usize, items: Vec<Item>) {
        self.writes += 1;
        let id = self.writes;
        let delay = if self.strikes(Fault::Delay) { 120 * MS } else { MS };
        let member = &mut self.members[at];
        member.writing = Some(id);
        let life = member.life;
        self.after(delay, Event::Write { member: at, life, write: id, items });
    }

    /// A write reaches the store, whatever became of its sender.
    pub(super) fn write_arrives(&mut self, at: usize, life: u64, write: u64, items: Vec<Item>) {
        if self.strikes(Fault::LoseWrite) {
            return self.later(Event::Written { member: at, life, write, items, outcomes: None });
        }
        let outcomes = self.store.commit(&items);
        self.note(|| format!("write {write} of relay {at}/{life}: {outcomes:?} for {items:?}"));
        let outcomes = (!self.strikes(Fault::LoseWritten)).then_some(outcomes);
        self.later(Event::Written { member: at, life, write, items, outcomes });
    }

    /// The outcome of a write, or its loss.
    pub(super) fn written(
        &mut self,
        at: usize,
        life: u64,
        write: u64,
        items: &[Item],
        outcomes: Option<&[Outcome]>,
    ) {
        let member = &mut self.members[at];
        if member.life != life || member.writing != Some(write) {
            return;
        }
        member.writing = None;
        for (index, item) in items.iter().enumerate() {
            let Some(fence) = &item.fence else { continue };
            match outcomes.and_then(|all| all.get(index)) {
                Some(Outcome::Applied(_)) => {
                    member.machine.committed(fence.partition);
                    for op in &item.ops {
                        if let Op::Unpark { key, .. } = op
                            && !self.store.parked.contains_key(key)
                        {
                            member.machine.freed(fence.partition, key);
                        }
                    }
                }
                _ => {
                    member.machine.lost(fence.partition);
                    member.claim_at = 0;
                }
            }
        }
    }
}

//! The network of the simulated world, and the receivers at its end.
//!
//! It loses requests and replies, delays, duplicates and reorders whole requests. In some worlds it
//! also behaves like a broker that lost a message it had acknowledged.

use std::collections::{HashSet, VecDeque};

use onewrite_core::{
    Delivery, Partition, Text,
    broker::Receipt,
    inbox::{Attempt, Group, Lane, closed, plan},
    record::Order,
};

use super::world::{Event, Fault, MS, World};

/// After this long a relay takes its request for lost.
const TIMEOUT: i64 = 60 * MS;

/// A publish request on its way.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) member: usize,
    pub(super) life: u64,
    deliveries: Vec<Delivery>,
    /// A delivery the broker acknowledges and loses.
    swallowed: Option<usize>,
}

/// A request that a receiver works on.
#[derive(Debug)]
pub(super) struct Job {
    receiver: usize,
    life: u64,
    request: Request,
    deliveries: Vec<Delivery>,
    /// What is left to do; nothing yet before the claim.
    groups: Option<VecDeque<(Group, bool)>>,
    closed: HashSet<(Text, Partition)>,
    receipts: Vec<Receipt>,
}

impl World {
    /// Sends `deliveries`; the reply, or its absence, is reported to the member later.
    pub(super) fn send(&mut self, member: usize, deliveries: Vec<Delivery>) -> u64 {
        self.requests += 1;
        let id = self.requests;
        let life = self.members[member].life;
        // Only within a stream: a lost re-drive has no successor that could tell.
        let chained = deliveries.iter().all(|delivery| delivery.order != Order::ById);
        let swallowed = (self.liar && chained && self.strikes(Fault::Swallow))
            .then(|| self.below(deliveries.len() as u64) as usize);
        let request = Request { id, member, life, deliveries, swallowed };
        self.after(TIMEOUT, Event::Reply { member, life, request: id, receipts: None });
        if self.strikes(Fault::LoseRequest) {
            self.note(|| format!("request {id} lost"));
            return id;
        }
        if self.strikes(Fault::Duplicate) {
            let delay = self.travel();
            self.after(delay, Event::Request(request.clone()));
        }
        let delay = self.travel();
        self.after(delay, Event::Request(request));
        id
    }

    fn travel(&mut self) -> i64 {
        if self.strikes(Fault::Delay) {
            return 20 * MS + self.below(250) as i64 * MS;
        }
        1 + self.below(3_000) as i64
    }

    /// A request arrives at one of the receivers.
    pub(super) fn arrive(&mut self, request: Request) {
        let receiver = self.below(self.receivers.len() as u64) as usize;
        let mut deliveries = request.deliveries.clone();
        if let Some(swallowed) = request.swallowed {
            deliveries.remove(swallowed);
        }
        self.note(|| {
            let sequences: Vec<_> = deliveries
                .iter()
                .map(|delivery| (delivery.record.sequence, delivery.order))
                .collect();
            format!("request {} at receiver {receiver}: {sequences:?}", request.id)
        });
        let life = self.receivers[receiver];
        let receipts = vec![Receipt::Blocked; deliveries.len()];
        let job = Job {
            receiver,
            life,
            request,
            deliveries,
            groups: None,
            closed: HashSet::new(),
            receipts,
        };
        self.later(Event::Receive(Box::new(job)));
    }

    /// One step of a receiver: the claim, or the transaction of one group.
    pub(super) fn receive(&mut self, mut job: Job) {
        if self.receivers[job.receiver] != job.life {
            return;
        }
        let Some(groups) = &mut job.groups else {
            let attempts = Attempt::of(&job.deliveries);
            let counted = self.inbox.attempt(&attempts, false);
            let again = counted.iter().any(|(_, counted)| !counted);
            let groups = plan(&job.deliveries, &attempts, &counted).into_iter();
            let is_alone = |group: &Group| {
                again
                    && group.attempts.iter().any(|attempt| {
                        let at = attempts.iter().position(|other| other.lane == attempt.lane);
                        at.is_some_and(|at| !counted[at].1)
                    })
            };
            let size = 1 + self.below(4) as usize;
            job.groups =
                Some(groups.flat_map(|group| chunks(is_alone(&group), &group, size)).collect());
            return self.later(Event::Receive(Box::new(job)));
        };
        let Some((mut group, alone)) = groups.pop_front() else { return self.reply(job) };
        let (shut, all) = (&job.closed, &job.deliveries);
        group.indexes.retain(|at| !shut.contains(&Lane::of(&all[*at]).partition()));
        if group.indexes.is_empty() {
            return self.later(Event::Receive(Box::new(job)));
        }
        if alone {
            self.inbox.attempt(&group.attempts, true);
        }
        let part: Vec<_> = group.indexes.iter().map(|at| job.deliveries[*at].clone()).collect();
        let ends_early = self.strikes(Fault::EndReceiver);
        let (tempers, now) = (&self.tempers, self.now);
        let handler = |record: &_| super::workload::verdict(tempers, now, record);
        let Some(done) = self.inbox.receive(&part, &group.attempts, handler, ends_early) else {
            self.note(|| format!("receiver {} ends at request {}", job.receiver, job.request.id));
            self.receivers[job.receiver] += 1;
            return;
        };
        self.note(|| format!("request {} group {:?}: {done:?}", job.request.id, group.indexes));
        job.closed.extend(closed(&part, &done));
        group.indexes.iter().zip(done).for_each(|(at, receipt)| job.receipts[*at] = receipt);
        self.later(Event::Receive(Box::new(job)));
    }

    fn reply(&mut self, job: Job) {
        if self.strikes(Fault::LoseReply) {
            return;
        }
        let Job { request, mut receipts, .. } = job;
        if let Some(swallowed) = request.swallowed {
            receipts.insert(swallowed, Receipt::Accepted);
        }
        let Request { id, member, life, .. } = request;
        let reply = Event::Reply { member, life, request: id, receipts: Some(receipts) };
        let delay = self.travel();
        self.after(delay, reply);
    }

    /// Carries out the operator's requests at the receivers.
    pub(super) fn sweep(&mut self) {
        let keys: Vec<_> = self
            .inbox
            .parked
            .iter()
            .filter(|(_, queue)| queue.retry)
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            let (tempers, now) = (&self.tempers, self.now);
            let handler = |record: &_| super::workload::verdict(tempers, now, record);
            let ended = self.inbox.redrive(&key, handler).is_none();
            self.note(|| format!("inbox re-drive of {key}, ended: {ended}"));
            if ended {
                let receiver = self.below(self.receivers.len() as u64) as usize;
                self.receivers[receiver] += 1;
            }
        }
    }
}

/// Spreads a group over several transactions; only the first one may be claimed again.
fn chunks(alone: bool, group: &Group, size: usize) -> Vec<(Group, bool)> {
    let chunk = |indexes: &[usize]| {
        let group = Group { indexes: indexes.to_vec(), attempts: group.attempts.clone() };
        (group, alone)
    };
    group.indexes.chunks(size).map(chunk).collect()
}

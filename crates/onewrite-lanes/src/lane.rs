//! What a lane holds: messages that are not settled, in the order in which they go to the receiver.
//!
//! Pure: no client, no clock, no randomness. Each stream (one partition of one life of one source) has a
//! queue. Chained records stand there by sequence, so that what was delivered again, or sent again after
//! a loss, finds its place; records outside the stream stand where the sender put them among the others.
//! A queue whose front was not taken waits; the others go on.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    time::Duration,
};

use onewrite_core::{
    Delivery, Sequence, Text, broker::Receipt, inbox::Lane as Key, record::Order, retry::Backoff,
};
use tokio::time::Instant;

use crate::announcement::Announcement;

/// The pause after a receiver found another record at this place: only an operator can help.
const DIVERGED_PAUSE: Duration = Duration::from_secs(60);

/// The longest pause between two announcements of the same gap.
const ANNOUNCE_WITHIN: Duration = Duration::from_secs(60);

/// How a lane treats what is not taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    pub(crate) backoff: Backoff,
    /// How long a gap is given to fill by itself before it is announced.
    pub(crate) gap_patience: Duration,
}

/// A message that holds a delivery: where it stands in the lane, and how to answer for it.
#[derive(Debug, Clone)]
pub(crate) struct Ticket<T> {
    pub(crate) place: u64,
    pub(crate) token: T,
    /// When the broker last heard of it.
    pub(crate) heard_at: Instant,
}

#[derive(Debug)]
struct Entry<T> {
    id: u64,
    delivery: Delivery,
    /// More than one when the sender sent it again.
    tickets: Vec<Ticket<T>>,
    /// For a record outside the stream, which waits by itself.
    failures: u32,
    resume_at: Option<Instant>,
}

impl<T> Entry<T> {
    /// Where it stands in its chain: the one with the earlier predecessor first, it fits sooner.
    fn link(&self) -> Option<(Sequence, Sequence)> {
        link(&self.delivery)
    }

    /// Where it stands in the lane.
    fn place(&self) -> u64 {
        self.tickets.first().map_or(0, |ticket| ticket.place)
    }
}

fn link(delivery: &Delivery) -> Option<(Sequence, Sequence)> {
    match delivery.order {
        Order::Chained { previous } => Some((delivery.record.sequence, previous)),
        Order::ById => None,
    }
}

/// A predecessor that is missing.
#[derive(Debug)]
struct Missing {
    have: Sequence,
    announce_at: Instant,
    pause: Duration,
}

#[derive(Debug)]
struct Queue<T> {
    entries: VecDeque<Entry<T>>,
    failures: u32,
    resume_at: Option<Instant>,
    missing: Option<Missing>,
    /// How many of `entries` wait by themselves.
    waiting: usize,
}

/// What a lane holds, with a token of the broker's for each message.
#[derive(Debug)]
pub(crate) struct Lane<T> {
    policy: Policy,
    queues: BTreeMap<Key, Queue<T>>,
    held: usize,
    next_id: u64,
    offered: Vec<(Key, u64)>,
    /// Where the next offer begins, so that each queue has its turn.
    turn: Option<Key>,
    failures: u32,
    resume_at: Option<Instant>,
}

impl<T: Clone> Lane<T> {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy,
            queues: BTreeMap::new(),
            held: 0,
            next_id: 0,
            offered: Vec::new(),
            turn: None,
            failures: 0,
            resume_at: None,
        }
    }

    /// Deliveries held.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Takes in a message.
    pub(crate) fn insert(&mut self, delivery: Delivery, ticket: Ticket<T>) {
        let queue = self.queues.entry(Key::of(&delivery)).or_insert_with(Queue::new);
        if queue.merge(&delivery, &ticket) {
            return;
        }
        let at = queue.position(&delivery, &ticket);
        let entry = Entry {
            id: self.next_id,
            delivery,
            tickets: vec![ticket],
            failures: 0,
            resume_at: None,
        };
        self.next_id += 1;
        self.held += 1;
        queue.entries.insert(at, entry);
        if at == 0 {
            // Perhaps what the others wait for.
            queue.resume_at = None;
        }
    }

    /// What goes to the receiver now: at most `count_max` deliveries of about `bytes_max` bytes. Between
    /// the queues it follows the lane's order, as far as each queue's own order allows.
    pub(crate) fn offer(
        &mut self,
        count_max: usize,
        bytes_max: usize,
        now: Instant,
    ) -> Vec<Delivery> {
        if !self.offered.is_empty() || self.resume_at.is_some_and(|time| time > now) {
            return Vec::new();
        }
        let first = self.turn.take();
        let is_late = |key: &&Key| first.as_ref().is_none_or(|first| *key >= first);
        let (late, early): (Vec<&Key>, Vec<&Key>) = self.queues.keys().partition(is_late);
        let mut bytes_left = bytes_max;
        let mut stopped_at = None;
        let mut found: Vec<(u64, &Key, &Entry<T>)> = Vec::new();
        for key in late.into_iter().chain(early) {
            if found.len() >= count_max || bytes_left == 0 {
                stopped_at = Some(key.clone());
                break;
            }
            let Some(queue) = self.queues.get(key) else { continue };
            let mut turn = 0;
            for entry in queue.ready(now) {
                if found.len() >= count_max || bytes_left == 0 {
                    break;
                }
                bytes_left = bytes_left.saturating_sub(entry.delivery.record.event.size());
                turn = entry.place().max(turn);
                found.push((turn, key, entry));
            }
        }
        // Stable, and `turn` never falls within a queue: its order stays.
        found.sort_by_key(|(turn, _, _)| *turn);
        let out = found.iter().map(|(_, _, entry)| entry.delivery.clone()).collect();
        self.offered = found.into_iter().map(|(_, key, entry)| (key.clone(), entry.id)).collect();
        self.turn = stopped_at;
        out
    }

    /// Learns what became of the offer; returns the tokens of what is settled. Without receipts
    /// nothing is known: all of it is offered again, after a pause for the whole lane.
    pub(crate) fn settle(
        &mut self,
        receipts: Option<&[Receipt]>,
        now: Instant,
        jitter: f64,
    ) -> Vec<T> {
        let offered = std::mem::take(&mut self.offered);
        let Some(receipts) = receipts.filter(|receipts| receipts.len() == offered.len()) else {
            self.failures += 1;
            self.resume_at = Some(now + self.policy.backoff.pause(self.failures, jitter));
            return Vec::new();
        };
        self.failures = 0;
        self.resume_at = None;
        let mut answered = Vec::new();
        let mut progress: HashSet<Key> = HashSet::new();
        let mut stopped: HashSet<Key> = HashSet::new();
        for ((key, id), receipt) in offered.into_iter().zip(receipts) {
            let Some(queue) = self.queues.get_mut(&key) else { continue };
            if receipt.is_settled() {
                if let Some(entry) = queue.remove(id) {
                    self.held -= 1;
                    answered.extend(entry.tickets.into_iter().map(|ticket| ticket.token));
                }
                progress.insert(key);
            } else if !stopped.contains(&key) {
                let moved = progress.contains(&key);
                queue.refused(id, receipt, moved, &self.policy, now, jitter);
                stopped.insert(key);
            }
        }
        self.queues.retain(|_, queue| !queue.entries.is_empty());
        answered
    }

    /// Whether an offer made now would hold something.
    pub(crate) fn has_ready(&self, now: Instant) -> bool {
        self.offered.is_empty()
            && self.resume_at.is_none_or(|time| time <= now)
            && self.queues.values().any(|queue| queue.ready(now).next().is_some())
    }

    /// When there is something to do again without a message or a receipt, if that is after `now`: what
    /// was due before is done.
    pub(crate) fn wake_at(&self, now: Instant) -> Option<Instant> {
        let announce = self.queues.values().filter_map(|queue| queue.missing.as_ref());
        let announce = announce.map(|missing| missing.announce_at);
        let resume = self.queues.values().flat_map(Queue::resumes).chain(self.resume_at);
        let resume = resume.filter(|_| self.offered.is_empty());
        announce.chain(resume).filter(|time| *time > now).min()
    }

    /// The messages the broker has not heard of since `before`: it is told that they are in work.
    pub(crate) fn unheard(&mut self, before: Instant, now: Instant) -> Vec<T> {
        let entries = self.queues.values_mut().flat_map(|queue| &mut queue.entries);
        let mut out = Vec::new();
        for ticket in entries.flat_map(|entry| &mut entry.tickets) {
            if ticket.heard_at <= before {
                ticket.heard_at = now;
                out.push(ticket.token.clone());
            }
        }
        out
    }

    /// What receivers wait for longer than can be put down to redelivery.
    pub(crate) fn announce(&mut self, now: Instant) -> Vec<Announcement> {
        let mut out = Vec::new();
        for (key, queue) in &mut self.queues {
            let Some(missing) = &mut queue.missing else { continue };
            if missing.announce_at <= now {
                out.push(Announcement::new(key, missing.have));
                missing.announce_at = now + missing.pause;
                missing.pause = (missing.pause * 2).min(ANNOUNCE_WITHIN);
            }
        }
        out
    }

    /// Ends it: the tokens of everything held, in the order of the lane.
    pub(crate) fn into_tokens(self) -> Vec<T> {
        let entries = self.queues.into_values().flat_map(|queue| queue.entries);
        let mut tickets: Vec<Ticket<T>> = entries.flat_map(|entry| entry.tickets).collect();
        tickets.sort_by_key(|ticket| ticket.place);
        tickets.into_iter().map(|ticket| ticket.token).collect()
    }
}

impl<T: Clone> Queue<T> {
    fn new() -> Self {
        let entries = VecDeque::new();
        Self { entries, failures: 0, resume_at: None, missing: None, waiting: 0 }
    }

    /// Joins a message to the delivery it repeats, if there is one.
    fn merge(&mut self, delivery: &Delivery, ticket: &Ticket<T>) -> bool {
        let found = match link(delivery) {
            Some(own) => self
                .entries
                .iter_mut()
                .rev()
                .take_while(|entry| entry.link().is_none_or(|other| other >= own))
                .find(|entry| {
                    entry.link() == Some(own) && entry.delivery.record.id() == delivery.record.id()
                }),
            // Sent again it is another message, which its receiver knows by its id.
            None => self
                .entries
                .iter_mut()
                .rev()
                .find(|entry| entry.link().is_none() && entry.place() == ticket.place),
        };
        let Some(entry) = found else { return false };
        match entry.tickets.iter_mut().find(|own| own.place == ticket.place) {
            Some(own) => *own = ticket.clone(),
            None => entry.tickets.push(ticket.clone()),
        }
        true
    }

    fn position(&self, delivery: &Delivery, ticket: &Ticket<T>) -> usize {
        let later = |entry: &Entry<T>| entry.place() > ticket.place;
        let Some(own) = link(delivery) else {
            // Behind the last one that was sent before it.
            return self.entries.iter().rposition(|entry| !later(entry)).map_or(0, |at| at + 1);
        };
        let chained = |entry: &Entry<T>| entry.link();
        let low = self
            .entries
            .iter()
            .rposition(|entry| chained(entry).is_some_and(|other| other <= own))
            .map_or(0, |at| at + 1);
        // Between its neighbours stand only records outside the stream: those sent before it go first.
        let between = self.entries.iter().skip(low);
        low + between.take_while(|entry| entry.link().is_none() && !later(entry)).count()
    }

    /// The entries that may go out, in order. A record outside the stream that waits holds back its
    /// key; a chained record that is held back holds back all chained ones.
    fn ready(&self, now: Instant) -> impl Iterator<Item = &Entry<T>> {
        let paused = self.resume_at.is_some_and(|time| time > now);
        let mut keys: HashSet<&Text> = HashSet::new();
        let mut open = !paused;
        self.entries.iter().take_while(move |_| !paused).filter(move |entry| {
            let key = entry.delivery.record.event.order_key();
            let chained = entry.link().is_some();
            if entry.resume_at.is_some_and(|time| time > now)
                || keys.contains(key)
                || (chained && !open)
            {
                open &= !chained;
                keys.insert(key);
                return false;
            }
            true
        })
    }

    fn remove(&mut self, id: u64) -> Option<Entry<T>> {
        let at = self.entries.iter().position(|entry| entry.id == id)?;
        let entry = self.entries.remove(at)?;
        if entry.link().is_some() {
            self.failures = 0;
            self.resume_at = None;
            self.missing = None;
        }
        self.waiting -= usize::from(entry.resume_at.is_some());
        Some(entry)
    }

    /// The first of an offer that was not taken. `moved` says whether something before it was.
    fn refused(
        &mut self,
        id: u64,
        receipt: &Receipt,
        moved: bool,
        policy: &Policy,
        now: Instant,
        jitter: f64,
    ) {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) else { return };
        let verdict = matches!(receipt, Receipt::Retry(_) | Receipt::Refused(_));
        if entry.link().is_none() && verdict {
            entry.failures += 1;
            self.waiting += usize::from(entry.resume_at.is_none());
            entry.resume_at = Some(now + policy.backoff.pause(entry.failures, jitter));
            return;
        }
        if !matches!(receipt, Receipt::Gap { .. }) {
            self.missing = None;
        }
        if *receipt == Receipt::Blocked && moved {
            // Those before it were taken, so the receiver is well: it goes on at once.
            return;
        }
        self.failures += 1;
        let mut pause = policy.backoff.pause(self.failures, jitter);
        match receipt {
            Receipt::Gap { have } => self.miss(*have, policy.gap_patience, now),
            Receipt::Diverged => pause = DIVERGED_PAUSE,
            _ => {}
        }
        self.resume_at = Some(now + pause);
    }

    fn miss(&mut self, have: Sequence, patience: Duration, now: Instant) {
        if self.missing.as_ref().is_none_or(|missing| missing.have != have) {
            let pause = patience.clamp(Duration::from_millis(50), ANNOUNCE_WITHIN);
            self.missing = Some(Missing { have, announce_at: now + patience, pause });
        }
    }

    /// When entries may go out.
    fn resumes(&self) -> impl Iterator<Item = Instant> + '_ {
        let alone = if self.waiting > 0 { self.entries.len() } else { 0 };
        let alone = self.entries.iter().take(alone).filter_map(|entry| entry.resume_at);
        self.resume_at.into_iter().chain(alone)
    }
}

#[cfg(test)]
#[path = "lane_test.rs"]
mod lane_test;

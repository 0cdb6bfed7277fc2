//! The simulated world: one virtual clock, one queue of things that will happen, one seed.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use onewrite_core::{
    Incarnation, Text,
    broker::Receipt,
    inbox,
    position::Source,
    relay,
    retry::Backoff,
    store::{Item, Outcome},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    Options,
    inbox::Inbox,
    network::{Job, Request},
    relay::Member,
    store::{SINK, Store},
    workload::Temper,
};
use crate::history::Committed;

/// A millisecond of the virtual clock.
pub(super) const MS: i64 = 1_000;
/// When faults end.
pub(super) const HEAL: i64 = 600 * MS;
/// When a world that is not quiet yet never will be.
const END: i64 = HEAL + 30_000 * MS;

/// What may go wrong at one point, with its chance in thousand.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    LoseRequest = 40,
    LoseReply = 41,
    Duplicate = 42,
    Delay = 60,
    Swallow = 45,
    EndReceiver = 25,
    LoseWrite = 20,
    LoseWritten = 21,
    Stall = 30,
    EndRelay = 4,
}

#[derive(Debug)]
pub(super) enum Event {
    Emit,
    Wake {
        member: usize,
        life: u64,
    },
    Write {
        member: usize,
        life: u64,
        write: u64,
        items: Vec<Item>,
    },
    Written {
        member: usize,
        life: u64,
        write: u64,
        items: Vec<Item>,
        outcomes: Option<Vec<Outcome>>,
    },
    Request(Request),
    Receive(Box<Job>),
    Reply {
        member: usize,
        life: u64,
        request: u64,
        receipts: Option<Vec<Receipt>>,
    },
    Operator,
    Sweep,
    Trim,
}

pub(super) struct World {
    pub(super) now: i64,
    pub(super) options: Options,
    pub(super) rng: SmallRng,
    queue: BTreeMap<(i64, u64), Event>,
    order: u64,
    /// Events of the queue that may still change something.
    pending: usize,
    pub(super) store: Store,
    pub(super) inbox: Inbox,
    pub(super) members: Vec<Member>,
    /// The life of each receiver process.
    pub(super) receivers: Vec<u64>,
    pub(super) tempers: HashMap<Text, Temper>,
    pub(super) committed: Committed,
    pub(super) requests: u64,
    pub(super) writes: u64,
    lives: u64,
    pub(super) emitted: u32,
    /// How many keys there are: the fewer, the more they meet.
    pub(super) keys: u64,
    /// By how much faults are likelier than usual.
    weather: u64,
    /// Whether acknowledged deliveries may get lost on the way.
    pub(super) liar: bool,
    trims: bool,
    policy: relay::Policy,
    pub(super) trace: Option<Vec<String>>,
    pub(super) steps: u64,
}

impl World {
    pub(super) fn new(seed: u64, options: Options, traced: bool) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let source = Source {
            name: "shop".into(),
            partitions: rng.random_range(1..=3),
            incarnations: vec![(1, Incarnation(7))],
        };
        let mut policy = inbox::Policy::new("consumer");
        policy.attempts_max = rng.random_range(1..=4);
        policy.accept_gaps = true;
        policy.sabotage = options.sabotage;
        let relay = relay::Policy {
            sink: SINK.into(),
            backoff: Backoff { initial: Duration::from_millis(2), cap: Duration::from_millis(30) },
            attempts_max: rng.random_range(1..=5),
            sabotage: options.sabotage,
        };
        let store = Store::new(source, options.sabotage);
        let mut world = Self {
            now: 0,
            queue: BTreeMap::new(),
            order: 0,
            pending: 0,
            store,
            inbox: Inbox::new(policy),
            members: Vec::new(),
            receivers: vec![0; rng.random_range(1..=2)],
            tempers: HashMap::new(),
            committed: Committed::default(),
            requests: 0,
            writes: 0,
            lives: 0,
            emitted: 0,
            keys: rng.random_range(2..=7),
            weather: rng.random_range(1..=3),
            // A log that forgets cannot mend what a broker lost.
            liar: seed.is_multiple_of(2),
            trims: !seed.is_multiple_of(2),
            policy: relay,
            trace: traced.then(Vec::new),
            steps: 0,
            rng,
            options,
        };
        for member in 0..world.rng.random_range(2..=3) {
            world.start(member);
        }
        for event in [Event::Emit, Event::Operator, Event::Sweep, Event::Trim] {
            world.later(event);
        }
        world
    }

    /// Runs until the world is quiet. Says whether it became so.
    pub(super) fn run(&mut self) -> bool {
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            self.steps += 1;
            if counts(&event) {
                self.pending -= 1;
            }
            self.happen(event);
            if self.now > HEAL && self.pending == 0 && self.is_settled() {
                return true;
            }
            if self.now > END {
                return false;
            }
        }
        false
    }

    fn is_settled(&self) -> bool {
        self.emitted > self.options.records
            && self.store.is_settled()
            && self.inbox.parked.is_empty()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Emit => self.emit(),
            Event::Wake { member, life } if self.members[member].life == life => {
                self.wake(member);
            }
            Event::Wake { .. } => {}
            Event::Write { member, life, write, items } => {
                self.write_arrives(member, life, write, items);
            }
            Event::Written { member, life, write, items, outcomes } => {
                self.written(member, life, write, &items, outcomes.as_deref());
            }
            Event::Request(request) => self.arrive(request),
            Event::Receive(job) => self.receive(*job),
            Event::Reply { member, life, request, receipts } => {
                self.reply_arrives(member, life, request, receipts);
            }
            Event::Operator => self.operate(),
            Event::Sweep => {
                self.sweep();
                self.after(15 * MS, Event::Sweep);
            }
            Event::Trim => {
                if self.trims {
                    self.store.trim();
                }
                self.after(25 * MS, Event::Trim);
            }
        }
    }

    fn wake(&mut self, member: usize) {
        if self.strikes(Fault::EndRelay) {
            self.note(|| format!("relay {member} ends"));
            return self.start(member);
        }
        self.relay_step(member);
        let pause = if self.strikes(Fault::Stall) {
            self.below(200) as i64 * MS
        } else {
            500 + self.below(2_000) as i64
        };
        let life = self.members[member].life;
        self.after(pause, Event::Wake { member, life });
    }

    /// Starts a relay process, or starts it again: all it knew is forgotten.
    fn start(&mut self, member: usize) {
        self.lives += 1;
        let life = self.lives;
        let process = Member::new(life, self.policy.clone(), &self.store);
        if member < self.members.len() {
            self.members[member] = process;
        } else {
            self.members.push(process);
        }
        let pause = 1 + self.below(20) as i64 * MS;
        self.after(pause, Event::Wake { member, life });
    }

    pub(super) fn strikes(&mut self, fault: Fault) -> bool {
        let chance = fault as u64 * self.weather;
        self.now <= HEAL && self.options.faults && self.below(1000) < chance
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.rng.random_range(0..bound.max(1))
    }

    pub(super) fn later(&mut self, event: Event) {
        let pause = 1 + self.below(2_500) as i64;
        self.after(pause, event);
    }

    pub(super) fn after(&mut self, pause: i64, event: Event) {
        self.order += 1;
        self.pending += usize::from(counts(&event));
        self.queue.insert((self.now + pause, self.order), event);
    }

    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{now:>8} {}", line()));
        }
    }
}

/// Whether `event` may change something; the others come again for ever.
fn counts(event: &Event) -> bool {
    matches!(event, Event::Write { .. } | Event::Request(_) | Event::Receive(_))
}

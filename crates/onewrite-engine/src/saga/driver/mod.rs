//! The driver: hands facts to the sagas, has their transitions written, makes their attempts.
//!
//! One task owns everything, so nothing here is locked. It waits for the store only to renew its leases
//! and to read sagas that it takes up; commits and attempts run beside it and report back.

mod facts;
mod ownership;
mod reading;
mod transacting;
mod writing;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use onewrite_core::{
    Partition, Text, Timestamp,
    lease::{Epoch, Fence},
    saga::{Attempt, Checked, DefinitionId, Direction, Input, Saga, SagaId, journal::Journal},
    store::{Batch, Durability, Item},
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};

use super::{
    attempt::Report,
    gate::Gates,
    handle::{Command, Watcher},
    health::{Health, What},
    leases::{Clock, Leases},
    options::SagaOptions,
    participant::Participants,
    write::{Committed, Write},
};
use crate::Shutdown;

/// A look for forgotten sagas, and for those whose time is over, in the time of so many looks for due ones.
pub(super) const WATCHDOG_EVERY: u32 = 50;

/// Facts taken in between two looks at what is to be written.
const FACTS_MAX: usize = 1_024;

/// A saga in memory.
struct Live {
    saga: Saga,
    partition: Partition,
    epoch: Epoch,
    /// A transition is on its way to the store: facts wait.
    busy: bool,
    /// That it waits has been stored since then at the latest: looks before that say nothing of it.
    settled: Timestamp,
    /// The transition on its way changes what it waits for.
    settles: bool,
    /// What it was before that transition, if that takes a signal: another saga may have it.
    before: Option<Box<Saga>>,
    facts: VecDeque<Fact>,
    timer: Option<Timestamp>,
    watchers: Vec<Watcher>,
    /// Who is told once the transition under way is durable.
    replies: Vec<Reply>,
    /// Attempts that wait at a gate. A turn that comes and is not among them serves no purpose any more.
    waiting: Vec<Waiting>,
}

/// An attempt that waits at a gate: where, its step, which way, and its number.
type Waiting = (usize, usize, Direction, u32);

impl Live {
    /// Whether this step waits for a signal that it is not given already.
    fn lacks_signal(&self, step: &str) -> bool {
        let at = self.saga.checked().index_of(step);
        let is_its =
            |fact: &Fact| matches!(&fact.input, Input::Signalled { step, .. } if Some(*step) == at);
        let awaited = self.saga.awaited();
        awaited.iter().any(|one| &*one.step == step) && !self.facts.iter().any(is_its)
    }

    /// What time it is, it is told again behind the transition that is on its way: what came meanwhile comes first.
    fn forget_time(&mut self) {
        self.facts.retain(|fact| !matches!(fact.input, Input::Time));
    }

    /// What waits at a gate does so no more, and has not begun: that of this step, or all of it.
    fn withdraw(&mut self, only: Option<usize>) {
        let is_it = |waiting: &Waiting| only.is_none_or(|step| step == waiting.1);
        for (_, step, ..) in self.waiting.extract_if(.., |waiting| is_it(waiting)) {
            self.saga.not_begun(step);
        }
    }
}

/// What a saga is told, and who is told that it is durable.
struct Fact {
    input: Input,
    reply: Option<Reply>,
    /// The request that it is, if it is kept in the store.
    request: Option<Text>,
}

type Reply = oneshot::Sender<onewrite_core::Result<()>>;

/// An attempt that may have to wait for its turn.
#[derive(Debug)]
struct Turn {
    attempt: Attempt,
    partition: Partition,
    epoch: Epoch,
    gate: usize,
    /// How long it may take, counted from when its turn comes.
    time: Duration,
}

pub(super) struct Driver {
    store: Arc<dyn Journal>,
    options: SagaOptions,
    owner: Text,
    participants: Participants,
    clock: Clock,
    /// The store has said what time it is. Until then nothing is started: on a clock of its own a saga might
    /// be due long after its start.
    knows_time: bool,
    leases: Leases,
    live: HashMap<SagaId, Live>,
    timers: BTreeSet<(Timestamp, SagaId)>,
    gates: Gates<Turn>,
    /// Definitions that are stored.
    definitions: HashMap<DefinitionId, Arc<Checked>>,
    queue: VecDeque<Write>,
    /// Writes that the database refused, and when each is tried again.
    aside: Vec<(Instant, Write)>,
    commits: JoinSet<Committed>,
    /// How many writes under the lease of each partition, and under none, are in commits under way.
    writing: HashMap<Option<Partition>, usize>,
    /// Starts under a lease whose commit is under way: no reading of sagas may take them for another's.
    starting: HashSet<SagaId>,
    reports: mpsc::UnboundedSender<Report>,
    reported: mpsc::UnboundedReceiver<Report>,
    /// Partitions whose unfinished sagas are still to be taken over, behind this one.
    recovering: (BTreeSet<Partition>, SagaId),
    /// Partitions to be given back, once nothing of theirs is in flight, and since when.
    leaving: BTreeMap<Partition, Instant>,
    /// Leases to be given back before the next claim: a write under them has an unknown outcome, or others
    /// are to have them.
    unsure: Vec<Fence>,
    /// Signals and requests that are being taken: no look finds them a second time.
    taking: HashSet<Text>,
    /// More signals may have come than were looked at: who waits for one is not told yet that its time is over.
    is_behind: bool,
    /// Some that have come are not matched with what waits for them: somebody's open transaction holds those.
    is_unmatched: bool,
    /// Sagas that were left in the store lately though their time is over: they are due, and not taken up yet.
    postponed: usize,
    /// All that had come by then were looked at: who waits for one until then or less may be told.
    looked: Timestamp,
    /// All that had come by then, while what waits for them was written, were matched with it.
    matched: Timestamp,
    /// Signals and those who wait for them are not matched again before this.
    match_at: Instant,
    /// Rows of the last look that could be given nobody: their sagas cannot be read, are for the next owner, or
    /// have enough to do with others.
    passed_over: usize,
    /// Sagas that cannot be read. Those that are due stay due.
    unreadable: BTreeSet<SagaId>,
    /// They have been looked at again up to this one.
    unreadable_upto: SagaId,
    /// Sagas to be read again.
    reload: Vec<SagaId>,
    renew_at: Instant,
    poll_at: Instant,
    /// When it is looked next which participants are held.
    holds_at: Instant,
    /// The store has said so once. Until then nobody is asked.
    knows_holds: bool,
    /// When it is looked next whether anything was forgotten.
    watch_at: Instant,
    /// Whether the store takes what is written.
    health: Health,
    /// Nothing is written before this, after so many failures.
    pause: (Instant, u32),
    /// So many writes go one by one: the database refused a statement that they shared.
    apart: usize,
    /// Attempts were held back because the leases had run out.
    starved: bool,
    /// Spreads the pauses.
    random: SmallRng,
}

impl Turn {
    /// What it is known as while it waits at a gate.
    fn waiting(&self) -> Waiting {
        let Attempt { step, direction, number, .. } = self.attempt;
        (self.gate, step, direction, number)
    }
}

impl Driver {
    pub(super) fn new(
        store: Arc<dyn Journal>,
        options: SagaOptions,
        owner: Text,
        participants: Participants,
        health: Health,
    ) -> Self {
        let (reports, reported) = mpsc::unbounded_channel();
        let now = Instant::now();
        let watch_at = now + options.poll * WATCHDOG_EVERY;
        let random = options.seed.map_or_else(SmallRng::from_os_rng, SmallRng::seed_from_u64);
        Self {
            gates: Gates::new(options.participant_max, options.breaker_after),
            store,
            options,
            owner,
            participants,
            clock: Clock::own(),
            knows_time: false,
            leases: Leases::new(),
            live: HashMap::new(),
            timers: BTreeSet::new(),
            definitions: HashMap::new(),
            queue: VecDeque::new(),
            aside: Vec::new(),
            commits: JoinSet::new(),
            writing: HashMap::new(),
            starting: HashSet::new(),
            reports,
            reported,
            recovering: (BTreeSet::new(), SagaId::default()),
            leaving: BTreeMap::new(),
            unsure: Vec::new(),
            taking: HashSet::new(),
            is_behind: false,
            is_unmatched: false,
            postponed: 0,
            looked: Timestamp::default(),
            matched: Timestamp::default(),
            match_at: now,
            passed_over: 0,
            unreadable: BTreeSet::new(),
            unreadable_upto: SagaId::default(),
            reload: Vec::new(),
            renew_at: now,
            poll_at: now,
            holds_at: now,
            knows_holds: false,
            watch_at,
            health,
            pause: (now, 0),
            apart: 0,
            starved: false,
            random,
        }
    }

    /// Runs sagas until the shutdown.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        shutdown: Shutdown,
    ) {
        let (mut asked, mut ended) = (Vec::new(), Vec::new());
        let mut open = true;
        while !shutdown.has_begun() {
            self.upkeep(true).await;
            let wake = self.wake_at();
            tokio::select! {
                // In this order, so that a seeded run repeats; none waits for another, see below.
                biased;
                () = shutdown.begun() => break,
                Some(done) = self.commits.join_next() => self.joined(done),
                _ = self.reported.recv_many(&mut ended, FACTS_MAX) => {}
                count = commands.recv_many(&mut asked, FACTS_MAX), if open && self.knows_time => {
                    open = count > 0;
                }
                () = tokio::time::sleep_until(wake) => {}
            }
            take_besides(&mut self.reported, &mut ended);
            if self.knows_time {
                take_besides(&mut commands, &mut asked);
            }
            for report in ended.drain(..) {
                self.ended(report);
            }
            for command in asked.drain(..) {
                self.asked(command).await;
            }
            self.admit();
            self.send();
        }
        self.leave().await;
    }

    /// Renews the leases, fires timers, looks for what is due.
    async fn upkeep(&mut self, take: bool) {
        if Instant::now() >= self.renew_at {
            // Not all processes at the same time: what one that ended has left goes to several.
            let spread = 1.0 - self.jitter() / 4.0;
            self.renew_at = Instant::now() + (self.options.lease_ttl / 3).mul_f64(spread);
            if let Err(error) = self.renew(take).await {
                tracing::warn!(%error, "the leases of sagas were not renewed");
                self.renew_at = Instant::now() + self.options.lease_ttl / 10;
                self.not_taken(&error, What::Claim);
            }
        }
        if let Err(error) = self.look_before_firing().await {
            tracing::warn!(%error, "signals were not looked for; what waits for one waits on");
            self.match_at = Instant::now() + self.options.poll;
        }
        self.look_for_holds().await;
        self.fire();
        self.gates.reopen(Instant::now());
        self.try_refused();
        if Instant::now() >= self.poll_at {
            self.poll_at = Instant::now() + self.options.poll;
            if let Err(error) = self.take_up(take).await {
                tracing::warn!(%error, "sagas that are due were not read");
            }
            self.give_back();
        }
        self.admit();
        self.send();
    }

    fn jitter(&mut self) -> f64 {
        self.random.random()
    }

    fn wake_at(&self) -> Instant {
        let mut wake = self.renew_at.min(self.poll_at);
        if let Some(time) = self.gates.wake_at() {
            wake = wake.min(time);
        }
        for (again, _) in &self.aside {
            wake = wake.min(*again);
        }
        if let Some((time, _)) = self.timers.first() {
            wake = wake.min(self.clock.instant(*time));
        }
        if !self.queue.is_empty() && self.commits.is_empty() {
            wake = wake.min(self.pause.0);
        }
        wake
    }

    fn insert(&mut self, saga: Saga, partition: Partition, epoch: Epoch, watchers: Vec<Watcher>) {
        let live = Live {
            saga,
            partition,
            epoch,
            busy: false,
            settled: self.clock.now(),
            settles: false,
            before: None,
            facts: VecDeque::new(),
            timer: None,
            watchers,
            replies: Vec::new(),
            waiting: Vec::new(),
        };
        self.live.insert(live.saga.id(), live);
    }

    /// The sagas in memory that `which` is true of, in order.
    fn those(&self, which: impl Fn(&Live) -> bool) -> Vec<SagaId> {
        let found = self.live.iter().filter(|(_, live)| which(live));
        let mut ids: Vec<SagaId> = found.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    fn unload(&mut self, id: SagaId) -> Option<Live> {
        let live = self.live.remove(&id)?;
        if let Some(time) = live.timer {
            self.timers.remove(&(time, id));
        }
        Some(live)
    }
}

/// What has come besides what was waited for.
fn take_besides<T>(from: &mut mpsc::UnboundedReceiver<T>, into: &mut Vec<T>) {
    while into.len() < FACTS_MAX
        && let Ok(one) = from.try_recv()
    {
        into.push(one);
    }
}

fn batch(items: Vec<Item>, durability: Durability) -> Batch {
    Batch { durability, items }
}

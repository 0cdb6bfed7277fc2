//! The simulated world: its processes, what goes wrong, and its course from a seed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use onewrite_core::{
    Text, Timestamp,
    saga::SagaId,
    store::{Item, Op, Outcome as Written},
};
use onewrite_engine::{
    Shutdown,
    saga::{Outcome, SagaOptions, SagaRunner, Sagas},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

use super::{
    Options, Trouble,
    door::Door,
    judge,
    participant::{Desk, Effect, Steps, Temper},
    people,
    process::{Process, State},
    shapes,
    tables::{Tables, is_forgotten},
};

/// A millisecond of the virtual clock.
pub(super) const MS: i64 = 1_000;
/// When faults end.
pub(super) const HEAL: i64 = 1_200 * MS;
/// When a world whose sagas have not ended never will be quiet.
const END: i64 = HEAL + 60_000 * MS;
/// The leases of the runners.
pub(super) const LEASE: Duration = Duration::from_millis(150);

/// What may go wrong at one point, with its chance in thousand.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// The store is not there.
    Refuse = 5,
    /// A request to the store.
    LoseRequest = 6,
    /// The store's answer.
    LoseAnswer = 8,
    /// A request lands behind its deadline.
    Late = 7,
    /// A call of a participant.
    LoseCall = 31,
    /// A participant's answer.
    Hang = 30,
    Twice = 32,
    Panic = 10,
    /// A compensation cannot be made now.
    Busy = 120,
}

/// What became of sagas and runners.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) completed: usize,
    pub(super) compensated: usize,
    pub(super) cancelled: usize,
    pub(super) resumed: usize,
    pub(super) taken_over: usize,
    pub(super) signalled: usize,
    pub(super) ended: usize,
    pub(super) stalled: usize,
}

impl Counts {
    /// Whether all of it happened.
    pub(super) fn is_everything(&self) -> bool {
        let Self { completed, compensated, cancelled, resumed, .. } = self;
        let Self { taken_over, signalled, ended, stalled, .. } = self;
        let sagas = [completed, compensated, cancelled, resumed, taken_over, signalled];
        sagas.into_iter().chain([ended, stalled]).all(|count| *count > 0)
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.completed += other.completed;
        self.compensated += other.compensated;
        self.cancelled += other.cancelled;
        self.resumed += other.resumed;
        self.taken_over += other.taken_over;
        self.signalled += other.signalled;
        self.ended += other.ended;
        self.stalled += other.stalled;
    }
}

/// A process that runs sagas.
#[derive(Clone)]
pub(super) struct Owner {
    pub(super) process: Arc<Process>,
    pub(super) sagas: Sagas,
    shutdown: Shutdown,
    task: Arc<tokio::task::AbortHandle>,
}

pub(super) struct Inner {
    pub(super) options: Options,
    rng: SmallRng,
    /// By how much faults are likelier than usual.
    weather: u64,
    pub(super) tables: Tables,
    pub(super) effects: Steps<Effect>,
    pub(super) tempers: Steps<Temper>,
    owners: Vec<Option<Owner>>,
    lives: u64,
    /// What those who started sagas were told of their ends.
    pub(super) told: BTreeMap<SagaId, Outcome>,
    /// Sagas whose cancelling was confirmed.
    pub(super) cancelled: Vec<SagaId>,
    pub(super) counts: Counts,
    wrong: Vec<String>,
    trace: Option<Vec<String>>,
}

pub(super) struct World {
    pub(super) seed: u64,
    began: Instant,
    runners: SagaOptions,
    inner: Mutex<Inner>,
}

impl World {
    /// Runs the world of a seed to its end.
    pub(super) async fn run(seed: u64, options: Options, traced: bool) -> Arc<Self> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let narrow = options.trouble == Some(Trouble::OneAtATime);
        let runners = SagaOptions {
            lease_ttl: LEASE,
            poll: Duration::from_millis(rng.random_range(10..40)),
            batch_max: rng.random_range(1..9),
            commits_max: rng.random_range(1..4),
            live_max: if rng.random_bool(0.3) { rng.random_range(2..6) } else { 1_000 },
            keep: Duration::from_millis(rng.random_range(0..100)),
            participant_max: if rng.random_bool(0.3) || narrow {
                rng.random_range(1..3)
            } else {
                1_000
            },
            breaker_after: if rng.random_bool(0.5) { rng.random_range(2..8) } else { 0 },
            // What has ended is judged in the end.
            retention: None,
            archive: None,
            publish: false,
            seed: None,
            sabotage: options.sabotage,
        };
        let owners = rng.random_range(2..=3);
        let inner = Inner {
            options,
            weather: rng.random_range(1..=3),
            rng,
            tables: Tables::new(options.sabotage),
            effects: BTreeMap::new(),
            tempers: BTreeMap::new(),
            owners: vec![None; owners],
            lives: 0,
            told: BTreeMap::new(),
            cancelled: Vec::new(),
            counts: Counts::default(),
            wrong: Vec::new(),
            trace: traced.then(Vec::new),
        };
        let world =
            Arc::new(Self { seed, began: Instant::now(), runners, inner: Mutex::new(inner) });
        (0..owners).for_each(|slot| world.start(slot));
        people::begin(&world);
        world.settle().await;
        world
    }

    /// Waits until every saga has ended, stops the runners, and judges.
    async fn settle(self: &Arc<Self>) {
        let is_over = |inner: &Inner| inner.told.len() == inner.options.sagas;
        while self.now() <= HEAL || !is_over(&self.locked()) {
            if self.now() > END {
                self.locked().wrong("it never became quiet".into());
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // What is late still comes.
        tokio::time::sleep(Duration::from_millis(400)).await;
        let owners = self.locked().owners.clone();
        owners.iter().flatten().for_each(|owner| owner.shutdown.begin());
        tokio::time::sleep(Duration::from_millis(400)).await;
        let is_left = |owner: &&Owner| !owner.task.is_finished();
        if owners.iter().flatten().any(|owner| is_left(&owner)) {
            self.locked().wrong("a runner does not stop".into());
        }
        let mut inner = self.locked();
        let faults = judge::faults(&inner);
        faults.into_iter().for_each(|fault| inner.wrong(fault));
        judge::count(&mut inner);
    }

    /// Starts a process in the place of the one before: all that one knew is forgotten.
    pub(super) fn start(self: &Arc<Self>, slot: usize) {
        let mut inner = self.locked();
        inner.lives += 1;
        let life = inner.lives;
        let name = Text::from(format!("owner {slot}, life {life}"));
        let process = Arc::new(Process::new(name.clone(), slot));
        let door = Arc::new(Door::new(self, &process));
        let seed = self.seed.wrapping_mul(1_000).wrapping_add(life);
        let options = SagaOptions { seed: Some(seed), ..self.runners.clone() };
        let desk = Arc::new(Desk { world: Arc::clone(self), door: Arc::clone(&door) });
        let mut runner = SagaRunner::new(door, options, name.clone());
        for name in shapes::ELSEWHERE {
            runner = runner.participant(*name, desk.clone());
        }
        for name in shapes::STORED_ONES {
            runner = runner.transactional(*name, desk.clone());
        }
        let (sagas, shutdown) = (runner.sagas(), Shutdown::default());
        let (running, stop) = (Arc::clone(&process), shutdown.clone());
        let task = tokio::spawn(async move { running.run(runner.run(stop)).await });
        let task = Arc::new(task.abort_handle());
        inner.note(self.now(), |_| format!("{name}: starts"));
        inner.owners[slot] = Some(Owner { process, sagas, shutdown, task });
    }

    /// Ends a process without a word. Another one takes its place soon.
    pub(super) fn end(self: &Arc<Self>, process: &Process) {
        let mut inner = self.locked();
        let pause = Duration::from_millis(5 + inner.below(100));
        let slot = process.slot;
        let is_it = |owner: &Owner| std::ptr::eq(&*owner.process, process);
        if !inner.owners[slot].as_ref().is_some_and(is_it) {
            return;
        }
        inner.note(self.now(), |_| format!("{}: ends", process.name));
        inner.counts.ended += 1;
        let Some(owner) = inner.owners[slot].take() else { return };
        drop(inner);
        owner.process.become_(State::Ended);
        owner.task.abort();
        let world = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            world.start(slot);
        });
    }

    /// Lets a process end in good order, and another one take its place.
    pub(super) fn replace(self: &Arc<Self>, owner: Owner) {
        let world = Arc::clone(self);
        owner.shutdown.begin();
        tokio::spawn(async move {
            while !owner.task.is_finished() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            world.end(&owner.process);
        });
    }

    /// Some process, if there is one.
    pub(super) fn owner(&self) -> Option<Owner> {
        let mut inner = self.locked();
        let owners: Vec<Owner> = inner.owners.iter().flatten().cloned().collect();
        let which = inner.below(owners.len() as u64) as usize;
        owners.into_iter().nth(which)
    }

    pub(super) fn has(&self, trouble: Trouble) -> bool {
        self.locked().options.trouble == Some(trouble)
    }

    pub(super) fn locked(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Microseconds of the virtual clock.
    pub(super) fn now(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    pub(super) fn transaction<T>(&self, act: impl FnOnce(&mut Inner, Timestamp) -> T) -> T {
        act(&mut self.locked(), Timestamp(self.now()))
    }

    pub(super) fn strikes(&self, fault: Fault) -> bool {
        self.locked().strikes(self.now(), fault)
    }

    pub(super) fn note(&self, line: impl FnOnce(&Inner) -> String) {
        self.locked().note(self.now(), line);
    }

    pub(super) fn below(&self, bound: u64) -> u64 {
        self.locked().below(bound)
    }

    /// How long a message is on its way.
    pub(super) fn travel(&self) -> Duration {
        Duration::from_micros(100 + self.below(6_000))
    }

    pub(super) fn verdict(&self) -> (Vec<String>, Counts, Vec<String>) {
        let mut inner = self.locked();
        let trace = inner.trace.take().unwrap_or_default();
        (std::mem::take(&mut inner.wrong), inner.counts, trace)
    }
}

impl Inner {
    pub(super) fn strikes(&mut self, now: i64, fault: Fault) -> bool {
        let chance = fault as u64 * self.weather;
        now <= HEAL && self.options.faults && self.below(1_000) < chance
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.rng.random_range(0..bound.max(1))
    }

    /// Applies an item, and looks at what it left.
    pub(super) fn apply(&mut self, now: Timestamp, item: &Item) -> Written {
        let outcome = self.tables.apply(now, item);
        for op in &item.ops {
            let (Op::AdvanceSaga(_) | Op::StartSaga(_)) = op else { continue };
            let fence = item.fence.as_ref().map(|fence| (fence.partition, fence.epoch));
            self.note(now.0, |inner| format!("{} {fence:?}: {outcome:?}", inner.words(op)));
            let saga = match op {
                Op::AdvanceSaga(next) => next.saga,
                Op::StartSaga(new) => new.id,
                _ => continue,
            };
            if self.tables.sagas.get(&saga).is_some_and(is_forgotten) {
                self.wrong(format!("{} waits for nothing that could come", self.key(saga)));
            }
        }
        outcome
    }

    fn words(&self, op: &Op) -> String {
        match op {
            Op::AdvanceSaga(next) => {
                let (key, version, entries) = (self.key(next.saga), next.version, &next.entries);
                let waits = next.standing.as_ref().map(|standing| standing.waits.as_str());
                format!("{key} #{version} {entries} {waits:?}")
            }
            Op::StartSaga(new) => format!("{} is started", new.key),
            _ => String::new(),
        }
    }

    pub(super) fn key(&self, saga: SagaId) -> Text {
        self.tables.sagas.get(&saga).map_or_else(Text::default, |saved| saved.key.clone())
    }

    pub(super) fn wrong(&mut self, what: String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("         WRONG: {what}"));
        }
        if !self.wrong.contains(&what) {
            self.wrong.push(what);
        }
    }

    pub(super) fn note(&mut self, now: i64, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{now:>8} {}", line(self));
            self.trace.iter_mut().for_each(|trace| trace.push(line.clone()));
        }
    }
}

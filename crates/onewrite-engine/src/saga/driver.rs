//! The driver: hands facts to the sagas, has their transitions written, makes their attempts.
//!
//! One task owns everything, so nothing here is locked. It waits for the store only to renew its leases
//! and to read sagas that it takes up; commits and attempts run beside it and report back.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use onewrite_core::{
    Code, Error, Partition, Result, Text, Timestamp, failpoint,
    error::Certainty,
    lease::{Epoch, Fence},
    position::partition_of,
    retry::Backoff,
    sabotage::Defect,
    saga::{
        Attempt, Cancelled, Checked, Definition, DefinitionId, Direction, Ended, Input, Json, Phase,
        Saga, SagaId,
        journal::{
            self, FindSagas, Journal, NewSaga, PARTITIONS, SavedSaga, Standing, State, Transition,
            Waits,
        },
    },
    store::{Batch, Claim, Durability, Item, Op, Outcome as Written},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::{
    attempt::{self, Report},
    gate::Gates,
    handle::{Command, Outcome, Start, Watcher},
    leases::{Clock, Leases},
    options::SagaOptions,
    participant::{Call, Participants},
    write::{self, Committed, Of, Write},
};
use crate::Shutdown;

/// Facts taken in between two looks at what is to be written.
const FACTS_MAX: usize = 1_024;

/// Sagas read at once.
const PAGE: usize = 500;

/// A look for forgotten sagas after so many looks for due ones.
const WATCHDOG_EVERY: u32 = 50;

/// Pauses while the store takes nothing.
const BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(20), cap: Duration::from_secs(2) };

/// A saga in memory.
struct Live {
    saga: Saga,
    partition: Partition,
    epoch: Epoch,
    /// A transition is on its way to the store: facts wait.
    busy: bool,
    facts: VecDeque<Fact>,
    timer: Option<Timestamp>,
    watchers: Vec<Watcher>,
    /// Who is told once the transition under way is durable.
    replies: Vec<Reply>,
}

/// What a saga is told, and who is told that it is durable.
struct Fact {
    input: Input,
    reply: Option<Reply>,
}

type Reply = oneshot::Sender<Result<()>>;

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
    leases: Leases,
    live: HashMap<SagaId, Live>,
    timers: BTreeSet<(Timestamp, SagaId)>,
    gates: Gates<Turn>,
    /// Definitions that are stored.
    definitions: HashMap<DefinitionId, Arc<Checked>>,
    queue: VecDeque<Write>,
    commits: JoinSet<Committed>,
    /// Starts under a lease whose commit is under way: no reading of sagas may take them for another's.
    starting: HashSet<SagaId>,
    reports: mpsc::UnboundedSender<Report>,
    reported: mpsc::UnboundedReceiver<Report>,
    /// Partitions whose unfinished sagas are still to be taken over, behind this one.
    recovering: (BTreeSet<Partition>, SagaId),
    /// Partitions to be given back, once nothing of theirs is in flight.
    leaving: BTreeSet<Partition>,
    /// Partitions under whose lease a write has an unknown outcome.
    unsure: Vec<Fence>,
    /// Sagas to be read again.
    reload: Vec<SagaId>,
    renew_at: Instant,
    poll_at: Instant,
    polls: u32,
    /// Nothing is written before this, after so many failures.
    pause: (Instant, u32),
    /// Attempts were held back because the leases had run out.
    starved: bool,
}

impl Driver {
    pub(super) fn new(
        store: Arc<dyn Journal>,
        options: SagaOptions,
        owner: Text,
        participants: Participants,
    ) -> Self {
        let (reports, reported) = mpsc::unbounded_channel();
        let now = Instant::now();
        Self {
            gates: Gates::new(options.participant_max),
            store,
            options,
            owner,
            participants,
            clock: Clock::own(),
            leases: Leases::new(),
            live: HashMap::new(),
            timers: BTreeSet::new(),
            definitions: HashMap::new(),
            queue: VecDeque::new(),
            commits: JoinSet::new(),
            starting: HashSet::new(),
            reports,
            reported,
            recovering: (BTreeSet::new(), SagaId::default()),
            leaving: BTreeSet::new(),
            unsure: Vec::new(),
            reload: Vec::new(),
            renew_at: now,
            poll_at: now,
            polls: 0,
            pause: (now, 0),
            starved: false,
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
                _ = self.reported.recv_many(&mut ended, FACTS_MAX) => {}
                count = commands.recv_many(&mut asked, FACTS_MAX), if open => open = count > 0,
                Some(done) = self.commits.join_next() => self.joined(done),
                () = tokio::time::sleep_until(wake.into()) => {}
                () = shutdown.begun() => break,
            }
            for report in ended.drain(..) {
                self.ended(report);
            }
            for command in asked.drain(..) {
                self.asked(command).await;
            }
            self.send();
        }
        self.leave().await;
    }

    /// Renews the leases, fires timers, looks for what is due.
    async fn upkeep(&mut self, take: bool) {
        if Instant::now() >= self.renew_at {
            self.renew_at = Instant::now() + self.options.lease_ttl / 3;
            if let Err(error) = self.renew(take).await {
                tracing::warn!(%error, "the leases of sagas were not renewed");
                self.renew_at = Instant::now() + self.options.lease_ttl / 10;
            }
        }
        self.fire();
        if Instant::now() >= self.poll_at {
            self.poll_at = Instant::now() + self.options.poll;
            if let Err(error) = self.take_up(take).await {
                tracing::warn!(%error, "sagas that are due were not read");
            }
            self.give_back();
        }
        self.send();
    }

    fn wake_at(&self) -> Instant {
        let mut wake = self.renew_at.min(self.poll_at);
        if let Some((time, _)) = self.timers.first() {
            wake = wake.min(self.clock.instant(*time));
        }
        if !self.queue.is_empty() && self.commits.is_empty() {
            wake = wake.min(self.pause.0);
        }
        wake
    }

    // Leases.

    async fn renew(&mut self, take: bool) -> Result<()> {
        self.clock = Clock::new(self.store.now().await?);
        self.release_unsure().await?;
        let (asked, ttl) = (Instant::now(), self.options.lease_ttl);
        let owner = self.owner.clone();
        let claim = Claim { scope: journal::SCOPE, leases: PARTITIONS, owner, ttl, take };
        let claimed = self.store.claim(claim).await?;
        let (lost, new) = self.leases.learn(&claimed.held, asked, ttl);
        lost.into_iter().for_each(|partition| self.drop_partition(partition));
        if !new.is_empty() {
            self.recovering.0.extend(new);
            self.recovering.1 = SagaId::default();
            self.poll_at = Instant::now();
        }
        let extra = claimed.give_back.saturating_sub(self.leaving.len());
        let held = self.leases.partitions();
        let more = held.into_iter().rev().filter(|partition| !self.leaving.contains(partition));
        let more: Vec<_> = more.take(extra).collect();
        self.leaving.extend(more);
        if self.starved {
            self.starved = false;
            let all: Vec<SagaId> = self.live.keys().copied().collect();
            all.into_iter().for_each(|id| self.step(id));
        }
        Ok(())
    }

    /// Gives leases back whose last write has an unknown outcome: taken again they have a new epoch,
    /// which refuses that write, should it still be on its way.
    async fn release_unsure(&mut self) -> Result<()> {
        let items: Vec<Item> = self
            .unsure
            .iter()
            .map(|fence| Item { fence: Some(fence.clone()), ops: vec![Op::Release(fence.clone())] })
            .collect();
        if !items.is_empty() {
            self.store.commit(batch(items, Durability::Durable)).await?;
            self.unsure.clear();
        }
        Ok(())
    }

    /// Another owner has this partition, or may get it: what is known of its sagas is forgotten.
    fn drop_partition(&mut self, partition: Partition) {
        self.leases.forget(partition);
        self.leaving.remove(&partition);
        self.recovering.0.remove(&partition);
        let theirs = |(id, live): (&SagaId, &Live)| (live.partition == partition).then_some(*id);
        let dropped: Vec<SagaId> = self.live.iter().filter_map(theirs).collect();
        dropped.into_iter().for_each(|id| drop(self.unload(id)));
    }

    /// Leaves partitions of which others want a share, once nothing of theirs is in flight.
    fn give_back(&mut self) {
        for partition in self.leaving.clone() {
            let Some(fence) = self.leases.fence(partition) else { continue };
            let theirs = |(id, live): (&SagaId, &Live)| (live.partition == partition).then_some(*id);
            let own: Vec<SagaId> = self.live.iter().filter_map(theirs).collect();
            for id in &own {
                self.hand_back(*id);
            }
            let waits = self.queue.iter().any(|write| write.of.partition() == partition)
                || self.live.values().any(|live| live.partition == partition)
                || !self.commits.is_empty();
            if !waits {
                self.drop_partition(partition);
                let item = Item { fence: Some(fence.clone()), ops: vec![Op::Release(fence)] };
                let store = Arc::clone(&self.store);
                tokio::spawn(async move {
                    // Should it fail, the lease runs out by itself.
                    let _ = store.commit(batch(vec![item], Durability::Relaxed)).await;
                });
            }
        }
    }

    fn hand_back(&mut self, id: SagaId) {
        let Some(live) = self.live.get_mut(&id) else { return };
        if live.busy || live.saga.in_flight() > 0 {
            return;
        }
        if live.saga.standing().waits == Waits::Lease {
            live.facts.clear();
            self.give(id, Input::HandBack);
        } else {
            drop(self.unload(id));
        }
    }

    // Reading sagas.

    async fn take_up(&mut self, take: bool) -> Result<()> {
        for id in std::mem::take(&mut self.reload) {
            if !self.live.contains_key(&id)
                && let Some(saved) = self.store.sagas(FindSagas::Id(id)).await?.pop()
            {
                self.load(&saved, Some(Input::TakenOver)).await;
            }
        }
        if !take {
            return Ok(());
        }
        self.recover().await?;
        let partitions = self.leases.partitions();
        let room = self.options.live_max.saturating_sub(self.live.len());
        if room > 0 && !partitions.is_empty() {
            let waiting = self.timers.len();
            let limit = room.min(PAGE).saturating_add(waiting);
            for saved in self.store.sagas(FindSagas::Due { partitions, limit }).await? {
                self.load(&saved, Some(Input::Time)).await;
            }
        }
        metrics::gauge!("onewrite_saga_live").set(self.live.len() as f64);
        self.polls = self.polls.wrapping_add(1);
        if self.polls.is_multiple_of(WATCHDOG_EVERY) {
            self.look_for_forgotten().await?;
        }
        Ok(())
    }

    /// Takes over what the last owners of new partitions left unfinished.
    async fn recover(&mut self) -> Result<()> {
        while !self.recovering.0.is_empty() && self.live.len() < self.options.live_max {
            let (partitions, after) = (self.recovering.0.iter().copied().collect(), self.recovering.1);
            let page = FindSagas::Leased { partitions, after, limit: PAGE };
            let found = self.store.sagas(page).await?;
            let full = found.len() == PAGE;
            for saved in &found {
                self.recovering.1 = saved.id;
                self.load(saved, Some(Input::TakenOver)).await;
            }
            if !full {
                self.recovering.0.clear();
            }
            self.send();
        }
        Ok(())
    }

    /// The watchdog: every unfinished saga waits for exactly one thing.
    async fn look_for_forgotten(&mut self) -> Result<()> {
        let forgotten = self.store.sagas(FindSagas::Forgotten).await?;
        metrics::gauge!("onewrite_saga_forgotten").set(forgotten.len() as f64);
        for saga in &forgotten {
            let code = Code::InvariantBroken;
            tracing::error!(saga = %saga.id, "{code}: an unfinished saga waits for nothing that could come");
        }
        Ok(())
    }

    /// Takes a saga into memory. One that cannot be read is left alone, and the others go on.
    async fn load(&mut self, saved: &SavedSaga, fact: Option<Input>) {
        let known = self.live.contains_key(&saved.id) || self.starting.contains(&saved.id);
        let skip = known || saved.ended_at.is_some();
        let Some(fence) = self.leases.fence(saved.partition).filter(|_| !skip) else { return };
        let recovered = match self.checked(&saved.definition).await {
            Ok(checked) => Saga::recovered(saved, checked, self.options.sabotage),
            Err(error) => Err(error),
        };
        let saga = match recovered {
            Ok(saga) => saga,
            Err(error) => {
                metrics::counter!("onewrite_saga_unreadable_total").increment(1);
                tracing::error!(saga = %saved.id, %error, "a saga cannot be read; it is left as it is");
                return;
            }
        };
        if matches!(fact, Some(Input::TakenOver)) {
            metrics::counter!("onewrite_saga_takeovers_total").increment(1);
        }
        self.insert(saga, saved.partition, fence.epoch, Vec::new());
        match fact {
            Some(fact) => self.give(saved.id, fact),
            None => self.step(saved.id),
        }
    }

    async fn checked(&mut self, id: &DefinitionId) -> Result<Arc<Checked>> {
        if let Some(known) = self.definitions.get(id) {
            return Ok(Arc::clone(known));
        }
        let text = self.store.definition(id).await?.ok_or_else(|| {
            Error::new(Code::Corrupt, format!("the definition {id} of a saga is not stored"))
        })?;
        let checked = Arc::new(Definition::parse(&text)?);
        self.definitions.insert(id.clone(), Arc::clone(&checked));
        Ok(checked)
    }

    fn insert(&mut self, saga: Saga, partition: Partition, epoch: Epoch, watchers: Vec<Watcher>) {
        let live = Live {
            saga,
            partition,
            epoch,
            busy: false,
            facts: VecDeque::new(),
            timer: None,
            watchers,
            replies: Vec::new(),
        };
        self.live.insert(live.saga.id(), live);
    }

    fn unload(&mut self, id: SagaId) -> Option<Live> {
        let live = self.live.remove(&id)?;
        if let Some(time) = live.timer {
            self.timers.remove(&(time, id));
        }
        Some(live)
    }

    // Facts.

    fn fire(&mut self) {
        let now = self.clock.now();
        while let Some((time, id)) = self.timers.first().copied().filter(|(time, _)| *time <= now) {
            self.timers.remove(&(time, id));
            if let Some(live) = self.live.get_mut(&id) {
                live.timer = None;
            }
            self.give(id, Input::Time);
        }
    }

    async fn asked(&mut self, command: Command) {
        match command {
            Command::Start(start) => self.start(Box::new(start), true),
            Command::Watch(id, watcher) => {
                // Dropped where the saga is not in memory: who waits looks into the store then.
                if let Some(live) = self.live.get_mut(&id) {
                    live.watchers.push(watcher);
                }
            }
            Command::Cancel { id, actor, reason, reply } => {
                self.steer(id, Input::Cancel { actor, reason }, reply).await;
            }
            Command::Resume { id, actor, reason, reply } => {
                self.steer(id, Input::Resume { actor, reason }, reply).await;
            }
        }
    }

    /// Carries out what a person wants, and tells once it is durable.
    async fn steer(&mut self, id: SagaId, input: Input, reply: Reply) {
        if !self.live.contains_key(&id) {
            match self.store.sagas(FindSagas::Id(id)).await {
                Ok(found) => {
                    for saved in &found {
                        self.load(saved, None).await;
                    }
                }
                Err(error) => {
                    let _ = reply.send(Err(error));
                    return;
                }
            }
        }
        let Some(live) = self.live.get_mut(&id) else {
            let what = format!("this process runs no saga {id}, or it has ended");
            let _ = reply.send(Err(Error::new(Code::NotFound, what)));
            return;
        };
        live.facts.push_back(Fact { input, reply: Some(reply) });
        self.step(id);
    }

    fn ended(&mut self, report: Report) {
        let next = self.gates.leave(report.gate);
        let Report { saga, epoch, step, direction, number, ended, .. } = report;
        let known = self.live.get(&saga).is_some_and(|live| live.epoch == epoch);
        if known {
            let word = match ended {
                Ended::Done(_) => "done",
                Ended::Aborted(_) => "aborted",
                Ended::Unknown(_) => "unknown",
            };
            metrics::counter!("onewrite_saga_attempts_total", "outcome" => word).increment(1);
            let jitter = match &ended {
                Ended::Done(_) => 0.0,
                Ended::Unknown(_) | Ended::Aborted(_) => rand::random(),
            };
            self.give(saga, Input::Ended { step, direction, number, how: ended, jitter });
        }
        if let Some(turn) = next {
            self.make(turn);
        }
    }

    fn give(&mut self, id: SagaId, fact: Input) {
        if let Some(live) = self.live.get_mut(&id) {
            live.facts.push_back(Fact { input: fact, reply: None });
            self.step(id);
        }
    }

    /// Takes in the facts of a saga until one has to be written; without one, makes the attempts that
    /// are permitted.
    fn step(&mut self, id: SagaId) {
        let now = self.clock.now();
        let Some(live) = self.live.get_mut(&id) else { return };
        while !live.busy {
            let Some(Fact { input, reply }) = live.facts.pop_front() else { break };
            let wants_cancel = matches!(input, Input::Cancel { .. });
            let entries = match live.saga.decide(now, input) {
                Ok(entries) if entries.is_empty() => {
                    let late = wants_cancel && live.saga.can_cancel() == Cancelled::TooLate;
                    if let Some(reply) = reply {
                        let _ = reply.send(if late { Err(too_late(id)) } else { Ok(()) });
                    }
                    continue;
                }
                Ok(entries) => entries,
                Err(error) => {
                    tracing::error!(saga = %id, %error, "a saga does not follow from its journal; it is left as it is");
                    drop(self.unload(id));
                    return;
                }
            };
            live.replies.extend(reply);
            let Some(fence) = self.leases.fence(live.partition) else {
                drop(self.unload(id));
                return;
            };
            if write::need_operator(&entries) {
                metrics::counter!("onewrite_saga_held_total").increment(1);
                let (code, name) = (Code::SagaHeld, &live.saga.checked().definition().name);
                tracing::error!(saga = %id, name, "{code}: a step can neither go on nor be compensated; a person has to look");
            }
            match journal::encode(&entries) {
                Ok(entries) => {
                    let (version, standing) = live.saga.next_transition();
                    let next = Transition { saga: id, version, time: now, entries, standing };
                    self.queue.push_back(write::transition(fence, next));
                    live.busy = true;
                }
                Err(error) => {
                    tracing::error!(saga = %id, %error, "a transition cannot be written");
                    drop(self.unload(id));
                    return;
                }
            }
        }
        if !live.busy || self.options.sabotage.has(Defect::ActBeforeJournal) {
            self.attempt(id, now);
        }
    }

    /// Makes the attempts that are permitted now.
    fn attempt(&mut self, id: SagaId, now: Timestamp) {
        let Some(live) = self.live.get_mut(&id) else { return };
        if self.leaving.contains(&live.partition) {
            return;
        }
        // Behind the end of its leases it begins nothing: another process may have begun already.
        if !self.leases.hold() && !self.options.sabotage.has(Defect::ActWithoutLease) {
            self.starved = true;
            return;
        }
        let (partition, epoch) = (live.partition, live.epoch);
        let attempts = live.saga.committed(now);
        let checked = Arc::clone(live.saga.checked());
        for attempt in attempts {
            let step = &checked.steps()[attempt.step];
            let name = match attempt.direction {
                Direction::Action => step.action(),
                Direction::Compensation => step.compensated_by().unwrap_or_default(),
            };
            let gate = self.gates.at(name);
            let time = attempt.deadline.since(now);
            let turn = Turn { attempt, partition, epoch, gate, time };
            if let Some(turn) = self.gates.enter(gate, turn) {
                self.make(turn);
            }
        }
        self.set_timer(id);
    }

    fn set_timer(&mut self, id: SagaId) {
        let Some(live) = self.live.get_mut(&id) else { return };
        let next = live.saga.next_time();
        if live.timer != next {
            if let Some(time) = live.timer {
                self.timers.remove(&(time, id));
            }
            live.timer = next;
            if let Some(time) = next {
                self.timers.insert((time, id));
            }
        }
    }

    /// Makes one attempt in a task of its own. One whose lease is lost by now is not made.
    fn make(&mut self, turn: Turn) {
        let mut turn = Some(turn);
        while let Some(Turn { attempt, partition, epoch, gate, time }) = turn.take() {
            if self.leases.fence(partition).is_none_or(|fence| fence.epoch != epoch) {
                turn = self.gates.leave(gate);
                continue;
            }
            let name = self.gates.name(gate).to_owned();
            let participant = self.participants.get(&name);
            let reports = self.reports.clone();
            let Attempt { saga, step, direction, number, key, input, output, .. } = attempt;
            tokio::spawn(async move {
                let deadline = Instant::now() + time;
                let ended = match input {
                    Ok(input) => {
                        let attempt = number;
                        let call =
                            Call { saga, key, direction, attempt, epoch, deadline, input, output };
                        attempt::make(participant, &name, call).await
                    }
                    Err(why) => Ended::Aborted(why),
                };
                let report = Report { saga, epoch, step, direction, number, gate, ended };
                // Without a driver nobody wants to know.
                let _ = reports.send(report);
            });
        }
    }

    // Writing.

    fn start(&mut self, start: Box<Start>, owned: bool) {
        let name = &start.checked.definition().name;
        let partition = partition_of(&format!("{name}/{}", start.key), PARTITIONS);
        let room = self.live.len() + self.starting.len() < self.options.live_max;
        let fence = self
            .leases
            .fence(partition)
            .filter(|_| owned && room && self.leases.hold() && !self.leaving.contains(&partition));
        let started_at = self.clock.now();
        // Without the lease it is left to its owner, as due at once.
        let standing = match fence {
            Some(_) => Standing::leased(State::Running),
            None => Standing::waiting(State::Running, started_at),
        };
        let new = NewSaga {
            id: start.id,
            name: name.clone().into(),
            key: start.key.clone(),
            run: 0,
            partition,
            definition: start.checked.id().clone(),
            input: start.input.clone(),
            standing,
            started_at,
        };
        let mut ops = vec![Op::StartSaga(Box::new(new))];
        if !self.definitions.contains_key(start.checked.id()) {
            ops.insert(0, Op::DefineSaga(Arc::clone(&start.checked)));
        }
        if fence.is_some() {
            self.starting.insert(start.id);
        }
        self.queue.push_back(Write { item: Item { fence, ops }, of: Of::Start(start, partition) });
    }

    /// Sends what waits, as far as commits may be under way.
    fn send(&mut self) {
        while !self.queue.is_empty()
            && self.commits.len() < self.options.commits_max.max(1)
            && Instant::now() >= self.pause.0
        {
            let count = self.queue.len().min(self.options.batch_max.max(1));
            let writes: Vec<Write> = self.queue.drain(..count).collect();
            self.commits.spawn(write::commit(Arc::clone(&self.store), writes));
        }
    }

    fn joined(&mut self, done: std::result::Result<Committed, tokio::task::JoinError>) {
        let (writes, outcomes) = match done {
            Ok(committed) => committed,
            Err(error) => {
                // A store that panicked: nothing is known of any lease.
                tracing::error!(%error, "a commit ended unexpectedly");
                let held = self.leases.partitions();
                held.into_iter().for_each(|partition| self.doubt(partition));
                return;
            }
        };
        match outcomes {
            Ok(outcomes) => {
                self.pause.1 = 0;
                for (write, outcome) in writes.into_iter().zip(outcomes) {
                    self.written(write, outcome);
                }
            }
            Err(error) => self.not_committed(writes, &error),
        }
    }

    /// Nothing of it was committed, or nobody knows.
    fn not_committed(&mut self, writes: Vec<Write>, error: &Error) {
        self.pause.1 = self.pause.1.saturating_add(1);
        self.pause.0 = Instant::now() + BACKOFF.pause(self.pause.1, rand::random());
        tracing::warn!(%error, writes = writes.len(), "sagas were not written");
        if error.certainty() == Certainty::NotApplied {
            // Before all that came later: a saga's transitions keep their order.
            writes.into_iter().rev().for_each(|write| self.queue.push_front(write));
            return;
        }
        for write in writes {
            self.doubt(write.of.partition());
            if let Of::Start(start, _) = write.of {
                self.starting.remove(&start.id);
                let error = Error::new(error.code(), error.context().to_owned());
                let _ = start.reply.send(Err(error));
            }
        }
    }

    /// A write under this lease may still land: the lease is given back and taken again.
    fn doubt(&mut self, partition: Partition) {
        if let Some(fence) = self.leases.fence(partition) {
            self.unsure.push(fence);
            self.drop_partition(partition);
            self.renew_at = Instant::now();
        }
    }

    fn written(&mut self, write: Write, outcome: Written) {
        match (write.of, outcome) {
            (Of::Saga(id, _), Written::Applied(_)) => self.advanced(id),
            (Of::Saga(_, partition), Written::Fenced) => {
                self.drop_partition(partition);
                self.renew_at = Instant::now();
            }
            (Of::Saga(id, _), Written::Failed(error)) => {
                tracing::warn!(saga = %id, %error, "a transition was refused; the saga is read again");
                drop(self.unload(id));
                self.reload.push(id);
            }
            (Of::Start(start, partition), outcome) => {
                self.starting.remove(&start.id);
                match outcome {
                    Written::Applied(count) => {
                        self.started(*start, partition, &write.item, count > 0);
                    }
                    Written::Fenced => {
                        self.drop_partition(partition);
                        self.renew_at = Instant::now();
                        self.start(start, false);
                    }
                    Written::Failed(error) => drop(start.reply.send(Err(error))),
                }
            }
        }
    }

    fn started(&mut self, start: Start, partition: Partition, item: &Item, is_new: bool) {
        failpoint::hit("saga.after_start_before_attempt");
        let Start { id, checked, input, reply, watcher, .. } = start;
        self.definitions.entry(checked.id().clone()).or_insert_with(|| Arc::clone(&checked));
        // Who started it and does not want to know lets it run all the same.
        let _ = reply.send(Ok(is_new));
        let (Some(Op::StartSaga(new)), true) = (item.ops.last(), is_new) else { return };
        metrics::counter!("onewrite_saga_started_total").increment(1);
        let held = self.leases.fence(partition);
        if let Some(fence) = held.filter(|held| item.fence.as_ref() == Some(held)) {
            let (at, sabotage) = (new.started_at, self.options.sabotage);
            let saga = Saga::started(id, checked, input, at, sabotage);
            self.insert(saga, partition, fence.epoch, watcher.into_iter().collect());
            self.step(id);
        }
    }

    /// A transition is durable.
    fn advanced(&mut self, id: SagaId) {
        let now = self.clock.now();
        let Some(live) = self.live.get_mut(&id) else { return };
        live.busy = false;
        live.replies.drain(..).for_each(|reply| drop(reply.send(Ok(()))));
        failpoint::hit("saga.after_journal_before_attempt");
        let standing = live.saga.standing();
        let stays = match (standing.waits, standing.due) {
            (Waits::Lease, _) => true,
            (Waits::Timer, due) => {
                live.saga.in_flight() > 0
                    || due.is_some_and(|due| due > now && due.since(now) <= self.options.keep)
            }
            (Waits::Operator | Waits::Nothing, _) => false,
        };
        let told = !live.facts.is_empty();
        if stays || told {
            self.attempt(id, now);
            if told {
                self.step(id);
            }
            return;
        }
        let Some(mut live) = self.unload(id) else { return };
        let outcome = match live.saga.phase() {
            Phase::Completed => {
                let output = live.saga.standing().output.clone();
                Outcome::Completed(output.unwrap_or(Json::NULL))
            }
            Phase::Compensated => Outcome::Compensated,
            Phase::Forward | Phase::Compensating => return,
        };
        let word = live.saga.standing().state.as_str();
        metrics::counter!("onewrite_saga_ended_total", "state" => word).increment(1);
        live.watchers.drain(..).for_each(|watcher| drop(watcher.send(outcome.clone())));
    }

    // Leaving.

    /// Lets attempts in flight end, hands back what is left, and gives the leases back.
    async fn leave(&mut self) {
        self.leaving = self.leases.partitions().into_iter().collect();
        let until = Instant::now() + self.options.lease_ttl;
        while Instant::now() < until && !(self.live.is_empty() && self.commits.is_empty() && self.queue.is_empty()) {
            let all: Vec<SagaId> = self.live.keys().copied().collect();
            all.into_iter().for_each(|id| self.hand_back(id));
            self.upkeep(false).await;
            tokio::select! {
                Some(report) = self.reported.recv() => self.ended(report),
                Some(done) = self.commits.join_next() => self.joined(done),
                () = tokio::time::sleep(self.options.poll) => {}
            }
            self.send();
        }
        let fences = self.leases.partitions().into_iter().filter_map(|at| self.leases.fence(at));
        let mut items: Vec<Item> = fences
            .map(|fence| Item { fence: Some(fence.clone()), ops: vec![Op::Release(fence)] })
            .collect();
        let op = Op::Leave { scope: journal::SCOPE, owner: self.owner.clone() };
        items.push(Item { fence: None, ops: vec![op] });
        if let Err(error) = self.store.commit(batch(items, Durability::Relaxed)).await {
            tracing::warn!(%error, "the leases of sagas were not given back; they expire by themselves");
        }
    }
}

fn too_late(id: SagaId) -> Error {
    let what = format!("the saga {id} has passed its pivot or has ended: it cannot be cancelled");
    Error::new(Code::InvalidInput, what)
}

fn batch(items: Vec<Item>, durability: Durability) -> Batch {
    Batch { durability, items }
}

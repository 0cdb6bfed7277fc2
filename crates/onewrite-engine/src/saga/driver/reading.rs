//! Taking sagas up from the store: what others left unfinished, and what is due.

use std::{
    collections::{HashMap, HashSet},
    ops::Bound,
    sync::Arc,
};

use onewrite_core::{
    Code, Error, Partition, Result, Text, Timestamp,
    error::Retry,
    saga::{
        Checked, Definition, DefinitionId, Ended, Input, Json, Request, Saga, SagaId,
        journal::{Arrived, FindSagas, SavedSaga, Waits},
    },
    store::{Durability, Item, Op, Outcome},
};
use tokio::time::Instant;

use super::{Driver, Fact, WATCHDOG_EVERY, batch};
use crate::saga::{hold, write};

/// Sagas read at once.
const PAGE: usize = 500;

/// It is looked which participants are held in the time of so many looks for due sagas.
const HOLDS_EVERY: u32 = 5;

/// Definitions remembered at most.
const DEFINITIONS_MAX: usize = 1_000;

/// Signals that can be given nobody here, beside which others are looked for, at most.
const PASSED_OVER_MAX: usize = 20 * PAGE;

impl Driver {
    /// Learns which participants a person holds. Where that cannot be read, those stay held that were.
    pub(super) async fn look_for_holds(&mut self) {
        if Instant::now() < self.holds_at {
            return;
        }
        self.holds_at = Instant::now() + self.options.poll * HOLDS_EVERY;
        match hold::holds(&*self.store).await {
            Ok(holds) => {
                self.gates.hold(holds);
                self.knows_holds = true;
            }
            Err(error) => {
                tracing::warn!(%error, "it is not known which participants are held");
                self.holds_at = Instant::now() + self.options.poll;
            }
        }
    }

    pub(super) async fn take_up(&mut self, take: bool) -> Result<()> {
        while let Some(id) = self.reload.last().copied() {
            if !self.live.contains_key(&id) {
                self.take_in(id).await?;
                self.unload_idle(id);
            }
            // Only now: should the store not answer, it is read with the next look.
            self.reload.retain(|known| *known != id);
        }
        if !take {
            return Ok(());
        }
        self.recover().await?;
        let due = self.due().await?;
        let read = self.clock.now();
        // Behind the look for what is due: what was sent before a saga's time was over is found.
        let waits = |saved: &SavedSaga| saved.standing.waits == Waits::Signal;
        if (self.is_unmatched || due.iter().any(waits))
            && let Err(error) = self.match_signals().await
        {
            tracing::warn!(%error, "signals were not matched; what waits for one waits on");
        }
        self.take_signals().await?;
        for saved in &due {
            self.load_due(saved, read).await?;
        }
        metrics::gauge!("onewrite_saga_live").set(self.live.len() as f64);
        if Instant::now() >= self.watch_at {
            self.watch_at = Instant::now() + self.options.poll * WATCHDOG_EVERY;
            self.look_around().await?;
        }
        Ok(())
    }

    /// Takes up what is due, if there is room for it, unless more signals may have come than were looked at. Where
    /// its time for one is over it is told so only behind a look (`step`).
    async fn load_due(&mut self, saved: &SavedSaga, read: Timestamp) -> Result<()> {
        let id = saved.id;
        let skip = self.is_behind && saved.standing.waits == Waits::Signal;
        let is_new = !self.live.contains_key(&id) && !self.unreadable.contains(&id);
        if skip || !is_new || self.live.len() >= self.options.live_max {
            return Ok(());
        }
        self.load(saved, false).await?;
        if let Some(live) = self.live.get_mut(&id) {
            // It was so before it was looked for signals.
            live.settled = read;
        }
        self.give(id, Input::Time);
        Ok(())
    }

    /// Signals and what waits for them find each other where neither saw the other.
    pub(super) async fn match_signals(&mut self) -> Result<()> {
        if Instant::now() < self.match_at {
            return Ok(());
        }
        self.match_at = Instant::now() + self.options.poll;
        let began = self.clock.now();
        let all =
            batch(vec![Item { fence: None, ops: vec![Op::MatchSignals] }], Durability::Relaxed);
        let was_unmatched = std::mem::replace(&mut self.is_unmatched, true);
        match self.store.commit(all).await?.pop() {
            Some(Outcome::Failed(error)) => return Err(error),
            Some(Outcome::Applied(0)) => (self.matched, self.is_unmatched) = (began, false),
            _ if was_unmatched => {}
            _ => tracing::warn!(
                "signals have come that cannot be matched now, as a rule for somebody's open transaction; sagas whose time for a signal is over wait for that"
            ),
        }
        Ok(())
    }

    /// What is done now and then.
    async fn look_around(&mut self) -> Result<()> {
        self.forget_turns();
        self.look_at_unreadable().await?;
        self.look_for_forgotten().await?;
        self.match_signals().await
    }

    /// Somebody may have mended what could not be read.
    async fn look_at_unreadable(&mut self) -> Result<()> {
        let behind = (Bound::Excluded(self.unreadable_upto), Bound::Unbounded);
        let ids: Vec<SagaId> = self.unreadable.range(behind).copied().take(PAGE).collect();
        // From the beginning behind the last ones.
        let is_last = ids.len() < PAGE;
        self.unreadable_upto = ids.last().copied().filter(|_| !is_last).unwrap_or_default();
        if !ids.is_empty() {
            let saved = self.store.sagas(FindSagas::Ids(ids.clone())).await?;
            let is_here = |saga: &&SavedSaga| {
                saga.ended_at.is_none() && self.leases.fence(saga.partition).is_some()
            };
            let here: Vec<&SavedSaga> = saved.iter().filter(is_here).collect();
            let stays: HashSet<SagaId> = here.iter().map(|saga| saga.id).collect();
            self.unreadable.retain(|id| !ids.contains(id) || stays.contains(id));
            let room = self.options.live_max.saturating_sub(self.live.len());
            for saga in here.into_iter().take(room) {
                self.load(saga, true).await?;
                self.unload_idle(saga.id);
            }
        }
        metrics::gauge!("onewrite_saga_unreadable").set(self.unreadable.len() as f64);
        Ok(())
    }

    /// What is due, as far as there is room for it.
    async fn due(&mut self) -> Result<Vec<SavedSaga>> {
        self.make_room();
        let partitions = self.staying();
        let room = self.options.live_max.saturating_sub(self.live.len());
        if room == 0 || partitions.is_empty() {
            return Ok(Vec::new());
        }
        // Those that were left in the store just now would be so again: they have every other look.
        let postponed = std::mem::take(&mut self.postponed).min(4 * PAGE);
        // Beside what is in memory, and what stays due because it cannot be read, written, or told its time.
        let away = self.unreadable.len() + self.aside.len() + postponed;
        let limit = room.min(PAGE) + self.timers.len() + away;
        let also_signals = !self.is_behind && postponed == 0;
        self.store.sagas(FindSagas::Due { partitions, limit, also_signals }).await
    }

    /// Where memory is full, what waits for a participant that is left alone waits in the store, and uses
    /// up no attempts: others may have work to do.
    fn make_room(&mut self) {
        if self.live.len() < self.options.live_max {
            return;
        }
        let gates = &self.gates;
        let stuck = self.those(|live| {
            let shut = live.waiting.iter().all(|(gate, ..)| gates.is_shut(*gate));
            !live.busy && !live.waiting.is_empty() && shut && live.facts.is_empty()
        });
        for id in stuck.into_iter().take(PAGE) {
            let waiting = self.live.get_mut(&id).map(|live| std::mem::take(&mut live.waiting));
            for (_, step, direction, number) in waiting.unwrap_or_default() {
                let how = Ended::NotMade("its participant is left alone for a while".into());
                let jitter = self.jitter();
                self.give(id, Input::Ended { step, direction, number, how, jitter });
            }
        }
        self.forget_turns();
    }

    /// Takes turns that nobody waits for any more out of the queues before gates that are shut, where they
    /// would come up one by one.
    fn forget_turns(&mut self) {
        let live = &self.live;
        self.gates.retain_at_shut(|turn| {
            let waiting = live.get(&turn.attempt.saga).map(|live| &live.waiting);
            waiting.is_some_and(|waiting| waiting.contains(&turn.waiting()))
        });
    }

    /// Hands signals that have come, and requests, to their sagas; each signal to one. Notes whether there may
    /// be more.
    pub(super) async fn take_signals(&mut self) -> Result<()> {
        // Also for sagas in memory whose partitions leave: what is asked of them they answer until then.
        let (partitions, began) = (self.leases.partitions(), self.clock.now());
        if partitions.is_empty() {
            return Ok(());
        }
        // Beside those that are being taken, and those that can be given nobody here.
        let limit = PAGE + self.taking.len() + self.passed_over;
        let found = self.store.arrived(partitions, limit).await?;
        let is_full = found.len() >= limit;
        let taking = &self.taking;
        let free: Vec<Arrived> =
            found.into_iter().filter(|one| !taking.contains(&one.signal)).collect();
        let (read, lacks_room) = self.read_for(&free).await?;
        self.is_behind = is_full || lacks_room;
        self.passed_over = 0;
        // Those that a busy saga is given later are nobody else's.
        let mut signals: HashSet<Text> = self.given(&free);
        let (mut steps, mut handed) = (HashSet::new(), Vec::new());
        let mut failed = Ok(());
        for arrived in free {
            let Arrived { saga, step, signal, .. } = &arrived;
            let (saga, known) = (*saga, self.live.contains_key(saga));
            let leaves = |saved: &&SavedSaga| self.leaving.contains_key(&saved.partition);
            let left = read.get(&saga).filter(leaves).is_some() || self.unreadable.contains(&saga);
            if !known && !left && !read.contains_key(&saga) {
                // There is no room for it.
                self.passed_over += 1;
                continue;
            }
            let lacks = match (self.live.get(&saga), step) {
                (Some(live), Some(step)) => live.lacks_signal(step),
                _ => true,
            };
            // A step takes one signal, and a saga any number of requests. A signal that one step has is looked at
            // for no other, which takes the next one.
            let is_free = lacks && !signals.contains(signal);
            let is_first = is_free && (step.is_none() || steps.insert((saga, step.clone())));
            if !known && left || !is_first {
                self.passed_over += 1;
                continue;
            }
            signals.insert(signal.clone());
            handed.push((saga, known));
            match self.hand_over(arrived, known, read.get(&saga)).await {
                Ok(true) => {}
                Ok(false) => self.passed_over += 1,
                // It is found again; the others have their signals, and are told what time it is.
                Err(error) => (self.is_behind, failed) = (true, Err(error)),
            }
        }
        if !self.is_behind {
            self.looked = began.min(self.matched);
        }
        // Behind all signals: they came in time, and this may be later.
        for (id, known) in handed {
            if !known {
                self.give(id, Input::Time);
            }
            self.unload_idle(id);
        }
        self.passed_over = self.passed_over.min(PASSED_OVER_MAX);
        failed
    }

    /// The signals among these that sagas in memory are given once they are not busy.
    fn given(&self, arrived: &[Arrived]) -> HashSet<Text> {
        let known = arrived.iter().filter_map(|one| self.live.get(&one.saga));
        let signal = |fact: &Fact| match &fact.input {
            Input::Signalled { signal, .. } => Some(signal.clone()),
            _ => None,
        };
        known.flat_map(|live| live.facts.iter().filter_map(signal)).collect()
    }

    /// The sagas that signals have come for and that are not in memory, as far as there is room for them, and
    /// whether there was none for some.
    async fn read_for(&self, arrived: &[Arrived]) -> Result<(HashMap<SagaId, SavedSaga>, bool)> {
        let is_away = |id: &SagaId| !self.live.contains_key(id) && !self.unreadable.contains(id);
        let mut away: Vec<SagaId> = arrived.iter().map(|one| one.saga).filter(is_away).collect();
        away.sort_unstable();
        away.dedup();
        let room = self.options.live_max.saturating_sub(self.live.len()).min(PAGE);
        let lacks_room = away.len() > room;
        away.truncate(room);
        if away.is_empty() {
            return Ok((HashMap::new(), lacks_room));
        }
        let read = self.store.sagas(FindSagas::Ids(away)).await?;
        Ok((read.into_iter().map(|saved| (saved.id, saved)).collect(), lacks_room))
    }

    /// Whether it was new. What is asked of a saga that was not `known` is done when it is woken.
    async fn hand_over(
        &mut self,
        arrived: Arrived,
        known: bool,
        saved: Option<&SavedSaga>,
    ) -> Result<bool> {
        let Arrived { saga, step, signal, payload } = arrived;
        if let Some(saved) = saved {
            self.load(saved, false).await?;
        }
        Ok(match (step, saved.filter(|saved| saved.ended_at.is_some())) {
            (Some(step), _) => {
                let at = self.live.get(&saga).and_then(|live| live.saga.checked().index_of(&step));
                if let Some(step) = at {
                    self.give(saga, Input::Signalled { step, signal, payload });
                }
                at.is_some()
            }
            (None, Some(ended)) => {
                self.drop_signal(saga, ended.partition, signal);
                true
            }
            (None, None) => self.requested(saga, known, signal, &payload),
        })
    }

    /// Hands a request to its saga, if it is here.
    fn requested(&mut self, id: SagaId, known: bool, signal: Text, payload: &Json) -> bool {
        let Some(live) = self.live.get_mut(&id) else { return false };
        if live.facts.iter().any(|fact| fact.request.as_ref() == Some(&signal)) {
            return false;
        }
        match payload.read::<Request>("a request") {
            Ok(request) => {
                let input = request.input();
                live.facts.push_back(Fact { input, reply: None, request: Some(signal) });
                if known {
                    self.step(id);
                }
            }
            Err(error) => {
                tracing::warn!(saga = %id, %error, "a request for a saga cannot be read; it is dropped");
                let partition = live.partition;
                self.drop_signal(id, partition, signal);
            }
        }
        true
    }

    /// Takes a request of which nothing can come any more.
    fn drop_signal(&mut self, id: SagaId, partition: Partition, signal: Text) {
        if self.taking.insert(signal.clone()) {
            self.queue.push_back(write::drop_signal(id, partition, None, signal));
        }
    }

    /// The partitions that are not to be given back: what is handed back there is for their next owner.
    fn staying(&self) -> Vec<Partition> {
        let mut held = self.leases.partitions();
        held.retain(|partition| !self.leaving.contains_key(partition));
        held
    }

    /// Takes over what the last owners of new partitions left unfinished.
    pub(super) async fn recover(&mut self) -> Result<()> {
        while !self.recovering.0.is_empty() && self.live.len() < self.options.live_max {
            let (partitions, after) =
                (self.recovering.0.iter().copied().collect(), self.recovering.1);
            let page = FindSagas::Leased { partitions, after, limit: PAGE };
            let found = self.store.sagas(page).await?;
            let full = found.len() == PAGE;
            for saved in &found {
                self.load(saved, true).await?;
                self.recovering.1 = saved.id;
            }
            if !full {
                self.recovering.0.clear();
            }
            self.send();
        }
        Ok(())
    }

    /// The watchdog: every unfinished saga waits for exactly one thing.
    pub(super) async fn look_for_forgotten(&mut self) -> Result<()> {
        let forgotten = self.store.sagas(FindSagas::Forgotten).await?;
        metrics::gauge!("onewrite_saga_forgotten").set(forgotten.len() as f64);
        for saga in &forgotten {
            let code = Code::InvariantBroken;
            tracing::error!(saga = %saga.id, "{code}: an unfinished saga waits for nothing that could come");
        }
        Ok(())
    }

    /// Takes a saga of this id into memory, if there is one that is this runner's.
    pub(super) async fn take_in(&mut self, id: SagaId) -> Result<()> {
        for saved in self.store.sagas(FindSagas::Id(id)).await? {
            self.load(&saved, true).await?;
        }
        Ok(())
    }

    /// Takes a saga into memory: what may be in flight is counted, and that it goes on is written, before
    /// anything of it is attempted. One that cannot be read is left alone, and the others go on.
    ///
    /// # Errors
    /// The store does not say now what the saga is run by: it is to be read again.
    pub(super) async fn load(&mut self, saved: &SavedSaga, looks_at_time: bool) -> Result<()> {
        let known = self.live.contains_key(&saved.id) || self.starting.contains(&saved.id);
        let leaves = self.leaving.contains_key(&saved.partition);
        let skip = known || leaves || saved.ended_at.is_some();
        let Some(fence) = self.leases.fence(saved.partition).filter(|_| !skip) else {
            return Ok(());
        };
        let recovered = match self.checked(&saved.definition).await {
            Ok(checked) => Saga::recovered(saved, checked, self.options.sabotage),
            Err(error) if error.retry() != Retry::Never => return Err(error),
            Err(error) => Err(error),
        };
        let saga = match recovered {
            Ok(saga) => saga,
            Err(error) => {
                if self.unreadable.insert(saved.id) {
                    tracing::error!(saga = %saved.id, %error, "a saga cannot be read; it is left as it is");
                }
                return Ok(());
            }
        };
        self.unreadable.remove(&saved.id);
        self.insert(saga, saved.partition, fence.epoch, Vec::new());
        if saved.standing.waits == Waits::Lease {
            metrics::counter!("onewrite_saga_takeovers_total").increment(1);
            self.give(saved.id, Input::TakenOver);
        } else if looks_at_time {
            self.give(saved.id, Input::Time);
        }
        Ok(())
    }

    pub(super) async fn checked(&mut self, id: &DefinitionId) -> Result<Arc<Checked>> {
        if let Some(known) = self.definitions.get(id) {
            return Ok(Arc::clone(known));
        }
        let text = self.store.definition(id).await?.ok_or_else(|| {
            Error::new(Code::Corrupt, format!("the definition {id} of a saga is not stored"))
        })?;
        let checked = Arc::new(Definition::parse(&text)?);
        self.keep_definition(&checked);
        Ok(checked)
    }

    /// Remembers a definition that is stored. Those that sagas run by stay with them: all others may be read again.
    pub(super) fn keep_definition(&mut self, checked: &Arc<Checked>) {
        let is_known = self.definitions.contains_key(checked.id());
        if !is_known && self.definitions.len() >= DEFINITIONS_MAX {
            self.definitions.clear();
        }
        self.definitions.insert(checked.id().clone(), Arc::clone(checked));
    }
}

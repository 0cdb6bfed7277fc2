//! Taking sagas up from the store: what others left unfinished, and what is due.

use std::{collections::HashSet, sync::Arc};

use onewrite_core::{
    Code, Error, Partition, Result, Text,
    error::Retry,
    saga::{
        Checked, Definition, DefinitionId, Input, Json, Request, Saga, SagaId,
        journal::{Arrived, FindSagas, SavedSaga, Waits},
    },
    store::{Durability, Item, Op},
};

use super::{Driver, Fact, batch};
use crate::saga::write;

/// Sagas read at once.
const PAGE: usize = 500;

/// A look for forgotten sagas after so many looks for due ones.
const WATCHDOG_EVERY: u32 = 50;

impl Driver {
    pub(super) async fn take_up(&mut self, take: bool) -> Result<()> {
        while let Some(id) = self.reload.last().copied() {
            if !self.live.contains_key(&id) {
                self.take_in(id).await?;
            }
            // Only now: should the store not answer, it is read with the next look.
            self.reload.retain(|known| *known != id);
        }
        if !take {
            return Ok(());
        }
        self.recover().await?;
        let partitions = self.staying();
        let room = self.options.live_max.saturating_sub(self.live.len());
        if room > 0 && !partitions.is_empty() {
            let waiting = self.timers.len();
            let limit = room.min(PAGE).saturating_add(waiting);
            for saved in self.store.sagas(FindSagas::Due { partitions, limit }).await? {
                self.load(&saved).await?;
            }
        }
        self.take_signals().await?;
        metrics::gauge!("onewrite_saga_live").set(self.live.len() as f64);
        self.polls = self.polls.wrapping_add(1);
        if self.polls.is_multiple_of(WATCHDOG_EVERY) {
            self.look_for_forgotten().await?;
            let ops = vec![Op::MatchSignals];
            let all = batch(vec![Item { fence: None, ops }], Durability::Relaxed);
            self.store.commit(all).await?;
        }
        Ok(())
    }

    /// Hands signals that have come, and requests, to their sagas; each signal to one.
    async fn take_signals(&mut self) -> Result<()> {
        let partitions = self.leases.partitions();
        if partitions.is_empty() {
            return Ok(());
        }
        let (mut signals, mut steps) = (HashSet::new(), HashSet::new());
        for Arrived { saga, step, signal, payload } in self.store.arrived(partitions, PAGE).await? {
            // A step takes one signal, and a saga any number of requests.
            let is_first = step.is_none() || steps.insert((saga, step.clone()));
            let known = !signals.insert(signal.clone()) || self.dropping.contains(&signal);
            if !is_first || known {
                continue;
            }
            let mut ended = false;
            if !self.live.contains_key(&saga) {
                for saved in self.store.sagas(FindSagas::Id(saga)).await? {
                    ended = saved.ended_at.is_some();
                    self.load(&saved).await?;
                }
            }
            match step {
                Some(step) => self.signalled(saga, &step, signal, payload),
                None if ended => self.drop_signal(saga, signal),
                None => self.requested(saga, signal, &payload),
            }
        }
        Ok(())
    }

    fn signalled(&mut self, id: SagaId, step: &str, signal: Text, payload: Json) {
        let live = self.live.get(&id);
        if let Some(step) = live.and_then(|live| live.saga.checked().index_of(step)) {
            self.give(id, Input::Signalled { step, signal, payload });
        }
    }

    /// Hands a request to its saga, if it is here.
    fn requested(&mut self, id: SagaId, signal: Text, payload: &Json) {
        let Some(live) = self.live.get_mut(&id) else { return };
        if live.facts.iter().any(|fact| fact.request.as_ref() == Some(&signal)) {
            return;
        }
        match payload.read::<Request>("a request") {
            Ok(request) => {
                let input = request.input();
                live.facts.push_back(Fact { input, reply: None, request: Some(signal) });
                self.step(id);
                self.unload_idle(id);
            }
            Err(error) => {
                tracing::warn!(saga = %id, %error, "a request for a saga cannot be read; it is dropped");
                self.drop_signal(id, signal);
            }
        }
    }

    /// Takes a request of which nothing can come any more.
    fn drop_signal(&mut self, id: SagaId, signal: Text) {
        if self.dropping.insert(signal.clone()) {
            self.queue.push_back(write::drop_signal(id, Partition::default(), signal));
        }
    }

    /// The partitions that are not to be given back: what is handed back there is for their next owner.
    fn staying(&self) -> Vec<Partition> {
        let mut held = self.leases.partitions();
        held.retain(|partition| !self.leaving.contains(partition));
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
                self.load(saved).await?;
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
            self.load(&saved).await?;
        }
        Ok(())
    }

    /// Takes a saga into memory: what may be in flight is counted, and that it goes on is written, before
    /// anything of it is attempted. One that cannot be read is left alone, and the others go on.
    ///
    /// # Errors
    /// The store does not say now what the saga is run by: it is to be read again.
    pub(super) async fn load(&mut self, saved: &SavedSaga) -> Result<()> {
        let known = self.live.contains_key(&saved.id) || self.starting.contains(&saved.id);
        let leaves = self.leaving.contains(&saved.partition);
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
                metrics::counter!("onewrite_saga_unreadable_total").increment(1);
                tracing::error!(saga = %saved.id, %error, "a saga cannot be read; it is left as it is");
                return Ok(());
            }
        };
        self.insert(saga, saved.partition, fence.epoch, Vec::new());
        if saved.standing.waits == Waits::Lease {
            metrics::counter!("onewrite_saga_takeovers_total").increment(1);
            self.give(saved.id, Input::TakenOver);
        } else {
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
        self.definitions.insert(id.clone(), Arc::clone(&checked));
        Ok(checked)
    }
}

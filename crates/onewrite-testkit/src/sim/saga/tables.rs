//! The database of the simulated world: leases, sagas, journals and signals, with atomic items.

use std::{collections::BTreeMap, sync::Arc};

use onewrite_core::{
    Code, Error, Partition, Result, Text, Timestamp,
    lease::{Epoch, Fence, share},
    sabotage::{Defect, Sabotage},
    saga::{
        Checked, Json, REQUEST, SagaId, Signal,
        journal::{
            Arrived, Awaited, FindSagas, ListSagas, NewSaga, PARTITIONS, SCOPE, SagaHead,
            SavedSaga, SavedTransition, Transition, Waits,
        },
    },
    store::{Claim, Claimed, Item, Op, Outcome},
};

use super::shelf;

#[derive(Debug, Clone, Default)]
struct Lease {
    owner: Option<Text>,
    epoch: Epoch,
    expires_at: Timestamp,
}

#[derive(Debug)]
struct Kept {
    signal: Signal,
    expires_at: Timestamp,
    taken: bool,
}

#[derive(Debug)]
pub(super) struct Tables {
    sabotage: Sabotage,
    leases: Vec<Lease>,
    /// Until when each member is known.
    members: BTreeMap<Text, Timestamp>,
    definitions: BTreeMap<Text, Arc<Checked>>,
    pub(super) sagas: BTreeMap<SagaId, SavedSaga>,
    waits: BTreeMap<SagaId, (Partition, Vec<Awaited>)>,
    /// In the order in which they came.
    signals: Vec<Kept>,
}

impl Tables {
    pub(super) fn new(sabotage: Sabotage) -> Self {
        Self {
            sabotage,
            leases: vec![Lease::default(); PARTITIONS.into()],
            members: BTreeMap::new(),
            definitions: BTreeMap::new(),
            sagas: BTreeMap::new(),
            waits: BTreeMap::new(),
            signals: Vec::new(),
        }
    }

    /// The epoch that a partition's lease has now.
    pub(super) fn epoch(&self, partition: Partition) -> Epoch {
        self.leases[usize::from(partition)].epoch
    }

    /// The epochs of all.
    pub(super) fn epochs(&self) -> BTreeMap<Partition, Epoch> {
        let leases = self.leases.iter().enumerate();
        leases.map(|(partition, lease)| (partition as Partition, lease.epoch)).collect()
    }

    pub(super) fn checked(&self, id: &str) -> Option<&Arc<Checked>> {
        self.definitions.get(id)
    }

    pub(super) fn claim(&mut self, now: Timestamp, claim: &Claim) -> Claimed {
        let (owner, until) = (&claim.owner, now.plus(claim.ttl));
        self.members.insert(owner.clone(), until);
        self.members.retain(|_, seen_until| *seen_until >= now);
        let own = |lease: &Lease| lease.owner.as_ref() == Some(owner);
        let renewed = self.leases.iter_mut().filter(|lease| own(lease));
        let held = renewed.map(|lease| lease.expires_at = until).count();
        let mut others: BTreeMap<&Text, usize> = BTreeMap::new();
        for lease in self.leases.iter().filter(|lease| !own(lease)) {
            lease.owner.iter().for_each(|other| *others.entry(other).or_default() += 1);
        }
        let even = self.leases.len() / self.members.len();
        let extras = others.values().filter(|held| **held > even).count();
        let fair = share(self.leases.len(), self.members.len(), held, extras);
        let is_free =
            |lease: &&mut Lease| lease.owner.is_none() || (!own(lease) && lease.expires_at <= now);
        let take = if claim.take { fair.take } else { 0 };
        for lease in self.leases.iter_mut().filter(is_free).take(take) {
            let epoch = lease.epoch + 1;
            *lease = Lease { owner: Some(owner.clone()), epoch, expires_at: until };
        }
        let fence = |(partition, lease): (usize, &Lease)| Fence {
            scope: SCOPE,
            partition: partition as Partition,
            epoch: lease.epoch,
        };
        let held = self.leases.iter().enumerate().filter(|(_, lease)| own(lease)).map(fence);
        Claimed { held: held.collect(), give_back: fair.give_back }
    }

    pub(super) fn apply(&mut self, now: Timestamp, item: &Item) -> Outcome {
        if item.fence.as_ref().is_some_and(|fence| !self.holds(fence)) {
            return Outcome::Fenced;
        }
        // All is looked at before anything is written.
        for op in &item.ops {
            if let Op::AdvanceSaga(next) = op
                && let Err(error) = self.look_at(next)
            {
                return Outcome::Failed(error);
            }
        }
        let epoch = item.fence.as_ref().map_or(0, |fence| fence.epoch);
        let mut touched = 0;
        for op in &item.ops {
            touched = self.write(now, epoch, op);
        }
        Outcome::Applied(touched)
    }

    fn holds(&self, fence: &Fence) -> bool {
        let lease = &self.leases[usize::from(fence.partition)];
        let current = lease.epoch == fence.epoch && lease.owner.is_some();
        current || self.sabotage.has(Defect::NoFence)
    }

    fn look_at(&self, next: &Transition) -> Result<()> {
        let Some(saga) = self.sagas.get(&next.saga) else {
            return Err(Error::new(Code::NotFound, "there is no such saga"));
        };
        let exists = saga.journal.iter().any(|one| one.version == next.version);
        if exists && !self.sabotage.has(Defect::NoVersion) {
            let what = format!("transition {} exists already", next.version);
            return Err(Error::new(Code::SagaConflict, what));
        }
        let is_free = |kept: &Kept, id: &Text| kept.signal.id == *id && !kept.taken;
        match &next.takes {
            Some(id) if !self.signals.iter().any(|kept| is_free(kept, id)) => {
                match self.sabotage.has(Defect::TakeTwice) {
                    true => Ok(()),
                    false => {
                        Err(Error::new(Code::SignalTaken, format!("the signal `{id}` is taken")))
                    }
                }
            }
            _ => Ok(()),
        }
    }

    fn write(&mut self, now: Timestamp, epoch: Epoch, op: &Op) -> u64 {
        match op {
            Op::DefineSaga(checked) => {
                let stored = self.definitions.entry(checked.id().clone());
                stored.or_insert_with(|| Arc::clone(checked));
                1
            }
            Op::StartSaga(new) => self.start(new),
            Op::AdvanceSaga(next) => self.advance(epoch, next),
            Op::Signal(signal) => {
                if self.signals.iter().any(|kept| kept.signal.id == signal.id) {
                    return 0;
                }
                let expires_at = now.plus(signal.kept());
                self.signals.push(Kept { signal: *signal.clone(), expires_at, taken: false });
                1
            }
            Op::DropSignal { signal, .. } => self.take(signal),
            Op::TrimSignals { .. } => {
                self.signals.retain(|kept| kept.expires_at > now);
                0
            }
            Op::TrimSagas { before, limit, only } => self.trim(*before, *limit, only.as_deref()),
            Op::Release(fence) => {
                let lease = &mut self.leases[usize::from(fence.partition)];
                if lease.epoch == fence.epoch {
                    (lease.owner, lease.expires_at) = (None, Timestamp::default());
                }
                1
            }
            Op::Leave { owner, .. } => u64::from(self.members.remove(owner).is_some()),
            // Nothing else is written of sagas.
            _ => 0,
        }
    }

    fn trim(&mut self, before: Timestamp, limit: u32, only: Option<&[SagaId]>) -> u64 {
        let wanted = |saga: &&SavedSaga| only.is_none_or(|only| only.contains(&saga.id));
        let found = shelf::old(&self.sagas, before).into_iter().filter(wanted);
        let gone: Vec<SagaId> = found.map(|saga| saga.id).take(limit as usize).collect();
        self.sagas.retain(|id, _| !gone.contains(id));
        gone.len() as u64
    }

    fn take(&mut self, id: &Text) -> u64 {
        let mut free = self.signals.iter_mut().filter(|kept| kept.signal.id == *id && !kept.taken);
        u64::from(free.next().map(|kept| kept.taken = true).is_some())
    }

    fn start(&mut self, new: &NewSaga) -> u64 {
        let is_it =
            |saga: &SavedSaga| (&saga.name, &saga.key, saga.run) == (&new.name, &new.key, new.run);
        if self.sagas.values().any(is_it) {
            return 0;
        }
        let saga = SavedSaga {
            id: new.id,
            name: new.name.clone(),
            key: new.key.clone(),
            run: new.run,
            partition: new.partition,
            definition: new.definition.clone(),
            input: new.input.clone(),
            standing: new.standing.clone(),
            started_at: new.started_at,
            ended_at: (new.standing.waits == Waits::Nothing).then_some(new.started_at),
            parent: new.parent.clone(),
            journal: Vec::new(),
            unreadable: None,
        };
        self.sagas.insert(new.id, saga);
        self.waits.insert(new.id, (new.partition, new.awaits.clone()));
        1
    }

    fn advance(&mut self, epoch: Epoch, next: &Transition) -> u64 {
        if let Some(signal) = &next.takes {
            self.take(signal);
        }
        if let Some(awaits) = &next.awaits {
            self.waits.insert(next.saga, (awaits.partition, awaits.signals.clone()));
        }
        let Some(saga) = self.sagas.get_mut(&next.saga) else { return 0 };
        if let Some(standing) = &next.standing {
            saga.standing = standing.clone();
            saga.ended_at = (standing.waits == Waits::Nothing).then_some(next.time);
        }
        let (version, time, json) = (next.version, next.time, next.entries.clone());
        saga.journal.retain(|one| one.version != version);
        saga.journal.push(SavedTransition { version, time, epoch, json });
        saga.journal.sort_by_key(|one| one.version);
        1
    }

    pub(super) fn find(&self, now: Timestamp, find: &FindSagas) -> Vec<SavedSaga> {
        let open = |partitions: &[Partition], saga: &&SavedSaga| {
            partitions.contains(&saga.partition) && saga.ended_at.is_none()
        };
        let all = self.sagas.values();
        match find {
            FindSagas::Id(id) => self.sagas.get(id).cloned().into_iter().collect(),
            FindSagas::Ids(ids) => all.filter(|saga| ids.contains(&saga.id)).cloned().collect(),
            FindSagas::Key { name, key } => {
                let named = all.filter(|saga| saga.name == *name && saga.key == *key);
                named.max_by_key(|saga| saga.run).cloned().into_iter().collect()
            }
            FindSagas::Leased { partitions, after, limit } => {
                let behind =
                    |saga: &&SavedSaga| saga.id > *after && saga.standing.waits == Waits::Lease;
                let found = all.filter(|saga| open(partitions, saga)).filter(behind);
                found.take(*limit).cloned().collect()
            }
            FindSagas::Due { also_signals, partitions, limit } => {
                let is_due = |saga: &&SavedSaga| {
                    let signalled = *also_signals && saga.standing.waits == Waits::Signal;
                    let waits = signalled || saga.standing.waits == Waits::Timer;
                    waits && saga.standing.due.is_some_and(|due| due <= now)
                };
                let due = all.filter(|saga| open(partitions, saga)).filter(is_due);
                let mut due: Vec<SavedSaga> = due.cloned().collect();
                due.sort_by_key(|saga| saga.standing.due);
                due.truncate(*limit);
                due
            }
            FindSagas::Forgotten => all.filter(|saga| is_forgotten(saga)).cloned().collect(),
            FindSagas::Ended { before, limit } => {
                shelf::old(&self.sagas, *before).into_iter().take(*limit).cloned().collect()
            }
        }
    }

    pub(super) fn heads(&self, list: &ListSagas) -> Vec<SagaHead> {
        shelf::heads(&self.sagas, list)
    }

    pub(super) fn arrived(
        &self,
        now: Timestamp,
        partitions: &[Partition],
        limit: usize,
    ) -> Vec<Arrived> {
        let mut found = Vec::new();
        for Kept { signal, .. } in self.free(now) {
            let mut arrived = |saga: SagaId, step: Option<Text>| {
                let (id, payload) = (signal.id.clone(), signal.payload.clone());
                found.push(Arrived { saga, step, signal: id, payload });
            };
            if signal.name == REQUEST {
                let saga = signal.correlation.parse().ok().and_then(|id| self.sagas.get(&id));
                let own = saga.filter(|saga| partitions.contains(&saga.partition));
                own.into_iter().for_each(|saga| arrived(saga.id, None));
                continue;
            }
            for (saga, (partition, awaited)) in &self.waits {
                let own = awaited.iter().filter(|_| partitions.contains(partition));
                let is_it = |one: &&Awaited| {
                    one.name == signal.name && one.correlation == signal.correlation
                };
                own.filter(is_it).for_each(|one| arrived(*saga, Some(one.step.clone())));
            }
        }
        found.truncate(limit);
        found
    }

    pub(super) fn signals(&self, now: Timestamp, name: &str, about: &[Text]) -> Vec<(Text, Json)> {
        let free = self.free(now).map(|kept| &kept.signal);
        let wanted = free.filter(|one| *one.name == *name && about.contains(&one.correlation));
        wanted.map(|one| (one.correlation.clone(), one.payload.clone())).collect()
    }

    fn free(&self, now: Timestamp) -> impl Iterator<Item = &Kept> {
        self.signals.iter().filter(move |kept| !kept.taken && kept.expires_at > now)
    }
}

/// Whether an unfinished saga waits for nothing that could come.
pub(super) fn is_forgotten(saga: &SavedSaga) -> bool {
    let timed = saga.standing.due.is_some();
    let known = match saga.standing.waits {
        Waits::Lease | Waits::Operator => !timed,
        Waits::Timer | Waits::Signal => timed,
        Waits::Nothing => false,
    };
    saga.ended_at.is_none() && !known
}

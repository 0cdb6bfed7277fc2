//! What is on its way to the store, and what becomes of it.

use std::{sync::Arc, time::Duration};

use onewrite_core::{
    Code, Error, Partition, Text,
    error::{Certainty, Retry},
    failpoint,
    lease::Fence,
    retry::Backoff,
    saga::{Json, Phase, Refusal, Saga, SagaId, journal::Waits},
    store::{Item, Op, Outcome as Written},
};
use tokio::time::Instant;

use super::{Driver, Live};
use crate::saga::{
    handle::{Outcome, Start},
    health::{What, causes},
    start::{self, First},
    steer::refused,
    write::{self, Committed, Of, Write},
};

/// Pauses while the store takes nothing.
const BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(20), cap: Duration::from_secs(2) };

/// Pauses of one write that the database refuses alone.
const REFUSED: Backoff =
    Backoff { initial: Duration::from_millis(200), cap: Duration::from_secs(60) };

/// When a claim of leases that was not taken is made again at the latest.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Whether the database will not have what was written, rather than take nothing now.
fn is_refusal(error: &Error) -> bool {
    let never = error.retry() == Retry::Never || error.code() == Code::Database;
    never && !error.concerns_every_write() && error.certainty() == Certainty::NotApplied
}

/// The signals that it takes.
fn signals_of(item: &Item) -> impl Iterator<Item = &Text> {
    item.ops.iter().filter_map(|op| match op {
        Op::DropSignal { signal, .. } => Some(signal),
        Op::AdvanceSaga(next) => next.takes.as_ref(),
        _ => None,
    })
}

impl Driver {
    pub(super) fn start(&mut self, start: Box<Start>, owned: bool) {
        let partition = start::partition(&start.checked, &start.key);
        let room = self.live.len() + self.starting.len() < self.options.live_max;
        let fence = self.leases.fence(partition).filter(|_| {
            owned && room && self.leases.hold() && !self.leaving.contains_key(&partition)
        });
        let first = First {
            checked: Arc::clone(&start.checked),
            key: start.key.clone(),
            run: start.run,
            input: start.input.clone(),
            parent: None,
            started_at: self.clock.now(),
        };
        let mut ops = vec![Op::StartSaga(Arc::new(first.row(start.id, fence.is_some())))];
        let known = self.definitions.get(start.checked.id());
        if known.is_none_or(|known| known.json() != start.checked.json()) {
            ops.insert(0, Op::DefineSaga(Arc::clone(&start.checked)));
        }
        if fence.is_some() {
            self.starting.insert(start.id);
        }
        self.queue.push_back(Write::new(Item { fence, ops }, Of::Start(start, partition)));
    }

    /// Whether what waits is to be sent now. Beside a commit that is under way a small one only costs
    /// another sync: it is better off with what comes until that one is done.
    fn is_worth_a_commit(&self) -> bool {
        let under_way: usize = self.writing.values().sum();
        let enough = (under_way / 2).clamp(1, self.options.batch_max.max(1));
        self.queue.len() >= enough
    }

    /// Sends what waits, as far as commits may be under way.
    pub(super) fn send(&mut self) {
        while self.is_worth_a_commit()
            && self.commits.len() < self.options.commits_max.max(1)
            && Instant::now() >= self.pause.0
        {
            let most = if self.apart > 0 { 1 } else { self.options.batch_max.max(1) };
            self.apart = self.apart.saturating_sub(1);
            let shared = self.queue.iter().take(most).take_while(|write| write.refused == 0);
            let count = shared.count().max(1).min(self.queue.len());
            let writes: Vec<Write> = self.queue.drain(..count).collect();
            for write in &writes {
                *self.writing.entry(write.leased()).or_default() += 1;
            }
            self.commits.spawn(write::commit(Arc::clone(&self.store), writes));
        }
    }

    pub(super) fn joined(&mut self, done: Result<Committed, tokio::task::JoinError>) {
        let (writes, outcomes) = match done {
            Ok(committed) => committed,
            Err(error) => {
                // A store that panicked: nothing is known of any lease.
                tracing::error!(%error, "a commit ended unexpectedly");
                self.writing.clear();
                self.taking.clear();
                self.starting.clear();
                let held = self.leases.partitions();
                held.into_iter().for_each(|partition| self.doubt(partition));
                return;
            }
        };
        for write in &writes {
            if let Some(count) = self.writing.get_mut(&write.leased()) {
                *count = count.saturating_sub(1);
            }
        }
        match outcomes {
            Ok(outcomes) => {
                self.pause.1 = 0;
                self.health.took();
                for (write, outcome) in writes.into_iter().zip(outcomes) {
                    self.written(write, outcome);
                }
            }
            Err(error) => self.not_committed(writes, &error),
        }
    }

    /// Nothing of it was committed, or nobody knows.
    pub(super) fn not_committed(&mut self, mut writes: Vec<Write>, error: &Error) {
        if is_refusal(error)
            && writes.len() == 1
            && let Some(write) = writes.pop()
        {
            return self.refused(write, error);
        }
        // Others of the same commit, and commits beside it, say nothing new.
        if Instant::now() >= self.pause.0 {
            self.pause.1 = self.pause.1.saturating_add(1);
            self.pause.0 = Instant::now() + BACKOFF.pause(self.pause.1, self.jitter());
        }
        tracing::warn!(%error, writes = writes.len(), "sagas were not written");
        if error.certainty() == Certainty::NotApplied {
            self.send_again(writes, error);
            return self.not_taken(error, What::Write);
        }
        for write in writes {
            self.taken(&write.item);
            self.doubt(write.of.partition());
            if let Of::Start(start, _) = write.of {
                self.not_started(*start, error);
            }
        }
    }

    /// Before all that came later; where the database refused what they share, one by one.
    fn send_again(&mut self, writes: Vec<Write>, error: &Error) {
        if is_refusal(error) {
            self.apart = writes.len();
        }
        writes.into_iter().rev().for_each(|write| self.queue.push_front(write));
    }

    /// The store would have taken nothing else either. Who wants to start a saga is told so, and may ask again;
    /// what sagas have done stays here until there is room for it.
    pub(super) fn not_taken(&mut self, error: &Error, what: What) {
        if !error.concerns_every_write() {
            return;
        }
        self.health.refused(error, what, Instant::now());
        if what == What::Claim {
            self.renew_at = self.renew_at.min(Instant::now() + LOOK_AGAIN);
        }
        if !self.health.is_told(Instant::now()) {
            return;
        }
        let all = std::mem::take(&mut self.queue);
        for write in all {
            match write.of {
                Of::Start(start, _) => self.not_started(*start, error),
                of => self.queue.push_back(Write { of, ..write }),
            }
        }
    }

    fn not_started(&mut self, start: Start, error: &Error) {
        self.starting.remove(&start.id);
        let told = Error::new(error.code(), error.context().to_owned()).within("start the saga");
        let told = match causes(error) {
            Some(why) => told.with_source(why),
            None => told,
        };
        // Who asked may have gone.
        let _ = start.reply.send(Err(told));
    }

    /// The database refuses this one: it is not started, or waits aside, alone, and nobody else with it. Its
    /// saga has one transition under way, so none of its own comes before it.
    fn refused(&mut self, mut write: Write, error: &Error) {
        if let Of::Saga(id, _) = write.of
            && !self.is_under_way(id, write.item.fence.as_ref())
        {
            // Its lease is gone: whoever has it now goes on.
            return self.taken(&write.item);
        }
        if error.code() == Code::StoreBusy {
            tracing::warn!(%error, of = %write.of, "a write of sagas waits for somebody's open transaction");
        } else {
            metrics::counter!("onewrite_saga_refused_total").increment(1);
            tracing::error!(%error, of = %write.of, "the database refuses one write of sagas; the others go on");
        }
        if let Of::Start(start, _) = write.of {
            return self.not_started(*start, error);
        }
        // It keeps the signal that it takes.
        self.taking.extend(signals_of(&write.item).cloned());
        write.refused = write.refused.saturating_add(1);
        let again = Instant::now() + REFUSED.pause(write.refused, self.jitter());
        self.aside.push((again, write));
    }

    /// Tries again what the database refused, when its time has come.
    pub(super) fn try_refused(&mut self) {
        let now = Instant::now();
        for (_, write) in self.aside.extract_if(.., |(again, _)| *again <= now) {
            self.queue.push_back(write);
        }
    }

    /// A write under this lease may still land: the lease is given back and taken again.
    pub(super) fn doubt(&mut self, partition: Partition) {
        if let Some(fence) = self.leases.fence(partition) {
            self.unsure.push(fence);
            self.drop_partition(partition);
            self.renew_at = Instant::now();
        }
    }

    pub(super) fn written(&mut self, write: Write, outcome: Written) {
        self.taken(&write.item);
        let fence = write.item.fence.as_ref();
        match (write.of, outcome) {
            // It was dropped and read again meanwhile: what became of an earlier write is in its journal.
            (Of::Saga(id, _), Written::Applied(_) | Written::Failed(_))
                if !self.is_under_way(id, fence) => {}
            (Of::Saga(id, _), Written::Applied(_)) => self.advanced(id),
            (Of::Nobody(_), _) => {}
            (Of::Saga(_, partition), Written::Fenced) => self.lost(partition, fence),
            (Of::Saga(id, _), Written::Failed(error))
                if error.code() == Code::SignalTaken && self.stands_back(id) => {}
            (Of::Saga(id, _), Written::Failed(error))
                if matches!(error.code(), Code::SagaConflict | Code::SignalTaken) =>
            {
                tracing::warn!(saga = %id, %error, "a transition was refused; the saga is read again");
                drop(self.unload(id));
                self.reload.push(id);
            }
            (of @ Of::Saga(..), Written::Failed(error)) => {
                let write = Write { item: write.item, of, refused: write.refused };
                if is_refusal(&error) || error.code() == Code::StoreBusy {
                    self.refused(write, &error);
                } else {
                    self.taking.extend(signals_of(&write.item).cloned());
                    self.not_committed(vec![write], &error);
                }
            }
            // In the way of others that commit at the same time.
            (of @ Of::Start(..), Written::Failed(error)) if error.code() == Code::StoreBusy => {
                let write = Write { item: write.item, of, refused: write.refused };
                self.not_committed(vec![write], &error);
            }
            (Of::Start(start, partition), outcome) => {
                self.starting.remove(&start.id);
                match outcome {
                    Written::Applied(count) => {
                        self.started(*start, partition, &write.item, count > 0);
                    }
                    Written::Fenced => {
                        self.lost(partition, fence);
                        self.start(start, false);
                    }
                    Written::Failed(error) => drop(start.reply.send(Err(error))),
                }
            }
        }
    }

    /// Another saga has the signal: this one is what it was before, and what it does else goes on.
    fn stands_back(&mut self, id: SagaId) -> bool {
        let now = self.clock.now();
        let Some(live) = self.live.get_mut(&id) else { return false };
        let Some(before) = live.before.take() else { return false };
        live.saga = before.in_place_of(&live.saga);
        (live.busy, live.settled) = (false, now);
        self.step(id);
        self.unload_idle(id);
        true
    }

    /// A signal was taken, or may have been: should it still be there, it is found again.
    pub(super) fn taken(&mut self, item: &Item) {
        for signal in signals_of(item) {
            self.taking.remove(signal);
        }
    }

    /// The store refused what was written under this lease. It may be held again by now, with another epoch.
    fn lost(&mut self, partition: Partition, fence: Option<&Fence>) {
        if self.leases.fence(partition).as_ref() == fence {
            self.drop_partition(partition);
            self.renew_at = Instant::now();
        }
    }

    /// Whether a transition that was written under this lease is the one that the saga in memory waits for.
    fn is_under_way(&self, id: SagaId, fence: Option<&Fence>) -> bool {
        let epoch = fence.map(|fence| fence.epoch);
        self.live.get(&id).is_some_and(|live| live.busy && Some(live.epoch) == epoch)
    }

    pub(super) fn started(
        &mut self,
        start: Start,
        partition: Partition,
        item: &Item,
        is_new: bool,
    ) {
        failpoint::hit("saga.after_start_before_attempt");
        let Start { id, checked, input, reply, watcher, .. } = start;
        self.keep_definition(&checked);
        // Who started it and does not want to know lets it run all the same.
        let _ = reply.send(Ok(is_new));
        let (Some(Op::StartSaga(new)), true) = (item.ops.last(), is_new) else { return };
        metrics::counter!("onewrite_saga_started_total").increment(1);
        let held = self.leases.fence(partition);
        if held.is_some() && item.fence.is_some() && item.fence != held {
            // The lease was lost and taken again meanwhile, and its sagas were read without this one.
            self.reload.push(id);
        } else if let Some(fence) = held.filter(|held| item.fence.as_ref() == Some(held)) {
            let (at, sabotage) = (new.started_at, self.options.sabotage);
            let saga = Saga::started(id, checked, input, at, sabotage);
            self.insert(saga, partition, fence.epoch, watcher.into_iter().collect());
            self.step(id);
            self.unload_idle(id);
        }
    }

    /// Forgets a saga of which nothing is written and that waits for long.
    pub(super) fn unload_idle(&mut self, id: SagaId) {
        if self.live.get(&id).is_some_and(|live| !live.busy && !self.stays(live)) {
            drop(self.unload(id));
        }
    }

    /// Whether a saga that nothing is written of is kept in memory.
    fn stays(&self, live: &Live) -> bool {
        let (now, standing) = (self.clock.now(), live.saga.standing());
        match (standing.waits, standing.due) {
            (Waits::Lease, _) => true,
            (Waits::Timer | Waits::Signal, due) => {
                let soon = due.is_some_and(|due| due > now && due.since(now) <= self.options.keep);
                live.saga.in_flight() > 0 || soon && self.live.len() < self.options.live_max
            }
            (Waits::Operator | Waits::Nothing, _) => false,
        }
    }

    /// A transition is durable.
    pub(super) fn advanced(&mut self, id: SagaId) {
        let now = self.clock.now();
        let Some(live) = self.live.get_mut(&id) else { return };
        (live.busy, live.before) = (false, None);
        if std::mem::take(&mut live.settles) {
            live.settled = now;
        }
        live.replies.drain(..).for_each(|reply| drop(reply.send(Ok(()))));
        failpoint::hit("saga.after_journal_before_attempt");
        let told = !live.facts.is_empty() && !live.saga.has_ended();
        let stays = self.live.get(&id).is_some_and(|live| self.stays(live));
        if stays || told {
            self.attempt(id, now);
            if told {
                self.step(id);
                self.unload_idle(id);
            }
            return;
        }
        let Some(mut live) = self.unload(id) else { return };
        if live.saga.has_ended() && live.saga.parent().is_some() {
            // Its parent may be run here.
            self.look_soon();
        }
        // Who wanted something of it meanwhile comes too late.
        let replies = live.facts.drain(..).filter_map(|fact| fact.reply);
        replies
            .for_each(|reply| drop(reply.send(Err(refused(id, Refusal::State("it has ended"))))));
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
}

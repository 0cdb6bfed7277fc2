//! Which partitions are this runner's: renewing, losing, sharing and leaving.

use std::collections::VecDeque;

use onewrite_core::{
    Partition, Result, Timestamp,
    sabotage::Defect,
    saga::{
        Input, SagaId,
        journal::{PARTITIONS, SCOPE, Waits},
    },
    store::{Claim, Durability, Item, Op},
};
use tokio::time::Instant;

use super::{Clock, Driver, FACTS_MAX, batch, take_besides};
use crate::saga::write::{Of, Write};

impl Driver {
    pub(super) async fn renew(&mut self, take: bool) -> Result<()> {
        let before = self.clock.now();
        self.clock = Clock::new(self.store.now().await?);
        if self.clock.now() < before {
            // It went back, or its answer took longer this time: what was noted before may lie ahead of it.
            (self.matched, self.looked) = (Timestamp::default(), Timestamp::default());
            let now = self.clock.now();
            self.live.values_mut().for_each(|live| live.settled = live.settled.min(now));
        }
        self.knows_time = true;
        self.release_unsure().await?;
        if self.options.sabotage.has(Defect::ActWithoutLease)
            && !self.leases.partitions().is_empty()
        {
            return Ok(());
        }
        let (asked, ttl) = (Instant::now(), self.options.lease_ttl);
        let owner = self.owner.clone();
        let claim = Claim { scope: SCOPE, leases: PARTITIONS, owner, ttl, take };
        let claimed = self.store.claim(claim).await?;
        self.health.claimed();
        let (lost, new) = self.leases.learn(&claimed.held, asked, ttl);
        // What is lost may be held again by now, with another epoch.
        lost.into_iter().for_each(|partition| self.forget_sagas(partition));
        if !new.is_empty() {
            self.recovering.0.extend(new);
            self.recovering.1 = SagaId::default();
            self.poll_at = Instant::now();
        }
        let extra = claimed.give_back.saturating_sub(self.leaving.len());
        let held = self.leases.partitions();
        let more = held.into_iter().rev().filter(|partition| !self.leaving.contains_key(partition));
        let more: Vec<_> = more.take(extra).map(|partition| (partition, asked)).collect();
        self.leaving.extend(more);
        if self.starved {
            self.starved = false;
            self.those(|_| true).into_iter().for_each(|id| self.step(id));
        }
        Ok(())
    }

    /// Gives leases back that others are to have, and those whose last write has an unknown outcome: taken
    /// again they have a new epoch, which refuses that write, should it still be on its way.
    pub(super) async fn release_unsure(&mut self) -> Result<()> {
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
    pub(super) fn drop_partition(&mut self, partition: Partition) {
        self.leases.forget(partition);
        self.forget_sagas(partition);
    }

    fn forget_sagas(&mut self, partition: Partition) {
        self.leaving.remove(&partition);
        self.recovering.0.remove(&partition);
        self.forget_refused(|of| of == partition);
        self.forget_queued(partition);
        let dropped = self.those(|live| live.partition == partition);
        dropped.into_iter().for_each(|id| drop(self.unload(id)));
    }

    /// Leaves partitions of which others want a share, once nothing of theirs is in flight, or after the time of a
    /// lease: an attempt that takes longer is its next owner's to make again.
    pub(super) fn give_back(&mut self) {
        self.withdraw();
        let leaving = self.leaving.clone();
        self.forget_refused(|of| leaving.contains_key(&of));
        for (partition, since) in leaving {
            let Some(fence) = self.leases.fence(partition) else { continue };
            for id in self.those(|live| live.partition == partition) {
                self.hand_back(id);
            }
            let in_time = since.elapsed() < self.options.lease_ttl;
            let waits = self.queue.iter().any(|write| write.leased() == Some(partition))
                || self
                    .live
                    .values()
                    .any(|live| live.partition == partition && (live.busy || in_time))
                || self.writing.get(&Some(partition)).is_some_and(|count| *count > 0);
            if !waits {
                // Before the next claim, and not beside it: landing late, it would take away what was
                // claimed again meanwhile.
                self.unsure.push(fence);
                self.drop_partition(partition);
                self.renew_at = Instant::now();
            }
        }
    }

    /// Attempts that wait for their turn are not made here any more where the partition leaves.
    fn withdraw(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        let leaving = &self.leaving;
        let theirs = self.live.values_mut().filter(|live| leaving.contains_key(&live.partition));
        theirs.for_each(|live| live.withdraw(None));
    }

    /// What waits to be written under a lease that is gone would only be refused, and keeps its signals meanwhile.
    fn forget_queued(&mut self, partition: Partition) {
        let is_gone =
            |write: &Write| write.of.partition() == partition && !matches!(write.of, Of::Start(..));
        let all = std::mem::take(&mut self.queue);
        let (gone, stays): (VecDeque<Write>, _) = all.into_iter().partition(is_gone);
        self.queue = stays;
        gone.iter().for_each(|write| self.taken(&write.item));
    }

    /// What the database refuses in these partitions is left to their next owner, who makes the attempt again.
    fn forget_refused(&mut self, theirs: impl Fn(Partition) -> bool) {
        let theirs = |(_, write): &mut (Instant, Write)| theirs(write.of.partition());
        let refused: Vec<_> = self.aside.extract_if(.., theirs).collect();
        for (_, write) in refused {
            self.taken(&write.item);
            if let Of::Saga(id, _) = write.of {
                drop(self.unload(id));
            }
        }
    }

    pub(super) fn hand_back(&mut self, id: SagaId) {
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

    /// Lets attempts in flight end, hands back what is left, and gives the leases back.
    pub(super) async fn leave(&mut self) {
        let now = Instant::now();
        self.leaving = self.leases.partitions().into_iter().map(|at| (at, now)).collect();
        let until = now + self.options.lease_ttl;
        while Instant::now() < until
            && !(self.live.is_empty() && self.commits.is_empty() && self.queue.is_empty())
        {
            self.withdraw();
            self.forget_refused(|_| true);
            self.those(|_| true).into_iter().for_each(|id| self.hand_back(id));
            self.upkeep(false).await;
            let mut ended = Vec::new();
            tokio::select! {
                biased;
                _ = self.reported.recv_many(&mut ended, FACTS_MAX) => {}
                Some(done) = self.commits.join_next() => self.joined(done),
                () = tokio::time::sleep(self.options.poll) => {}
            }
            take_besides(&mut self.reported, &mut ended);
            for report in ended {
                self.ended(report);
            }
            self.send();
        }
        if let Err(error) = self.health.check(Instant::now()) {
            let sagas = self.live.len();
            tracing::warn!(%error, sagas, "the store takes nothing: what was done last for these sagas is not in it, and is asked for again, with the same keys, by whoever runs them next");
        }
        let held = self.leases.partitions().into_iter().filter_map(|at| self.leases.fence(at));
        let fences = held.chain(std::mem::take(&mut self.unsure));
        let mut items: Vec<Item> = fences
            .map(|fence| Item { fence: Some(fence.clone()), ops: vec![Op::Release(fence)] })
            .collect();
        let op = Op::Leave { scope: SCOPE, owner: self.owner.clone() };
        items.push(Item { fence: None, ops: vec![op] });
        if let Err(error) = self.store.commit(batch(items, Durability::Relaxed)).await {
            tracing::warn!(%error, "the leases of sagas were not given back; they expire by themselves");
        }
    }
}

//! What a relay does now and then: leases, retention's bounds, the receiver's marks, the budget.

use std::time::{Duration, Instant};

use onewrite_core::{
    Code, Error, Result,
    relay::Alarm,
    store::{Claim, Durability, Item, Op},
};

use super::Driver;

impl Driver {
    /// Renews the leases and does what is due now and then.
    pub(super) async fn renew(&mut self) -> Result<()> {
        self.renew_at = Instant::now() + self.options.lease_ttl / 3;
        let (scope, owner) = (self.policy_scope(), self.owner.clone());
        self.store_cursors(Durability::Relaxed).await?;
        self.release_unsure().await?;
        let (leases, ttl) = (self.source.partitions, self.options.lease_ttl);
        let claim = Claim { scope, leases, owner, ttl, take: true };
        let claimed = self.store.claim(claim).await?;
        if !self.machine.knows(&claimed.held) {
            let cursors = self.store.cursors(&self.options.sink).await?;
            self.unheard.extend(self.machine.leased(&claimed.held, &cursors));
            // Should the receiver be out of reach, it is asked again before anything goes out.
            let _ = self.compare().await?;
        } else {
            self.machine.leased(&claimed.held, &[]);
        }
        for (partition, sequence) in self.store.trimmed().await? {
            self.machine.trimmed(partition, sequence);
        }
        let noted = self.machine.checkpoint();
        self.commit(noted, Durability::Relaxed).await?;
        if claimed.give_back > 0 {
            let released = self.machine.give_back(claimed.give_back);
            self.commit(released, Durability::Relaxed).await?;
        }
        self.keep_budget().await?;
        self.redrive().await
    }

    /// Compares the receiver's marks with the source, for partitions where that was not done since
    /// they were leased: a receiver that knows more than its source must not be served, its marks
    /// would swallow new records. Returns why nothing may go out now, if so.
    pub(super) async fn compare(&mut self) -> Result<Result<()>> {
        let source = self.store.source();
        let Some((_, life)) = source.incarnations.last().copied() else { return Ok(Ok(())) };
        if self.unheard.is_empty() {
            return Ok(Ok(()));
        }
        let marks = match self.sink.marks(&source.name, life).await {
            Ok(marks) => marks.unwrap_or_default(),
            Err(error) => {
                tracing::debug!(%error, "the receiver's marks cannot be read yet");
                return Ok(Err(error));
            }
        };
        let head = self.store.head().await?;
        let mut is_ahead = false;
        for mark in marks.iter().filter(|mark| self.unheard.contains(&mark.partition)) {
            let id = self.store.id_at(mark.partition, mark.sequence).await?;
            let alarm = self.machine.compare(
                mark.partition,
                (mark.sequence, &mark.last_id),
                head,
                id.as_deref(),
            );
            is_ahead |= alarm.is_some();
            self.tell(alarm.as_slice());
        }
        self.unheard.clear();
        // What was offered before its lane was stopped must not go out.
        let why = "the receiver knows records that this source does not have";
        Ok(if is_ahead { Err(Error::new(Code::SinkAhead, why)) } else { Ok(()) })
    }

    /// Sends again what receivers say they wait for, should their broker have lost it.
    pub(super) async fn fall_back(&mut self) -> Result<()> {
        let Some((_, life)) = self.source.incarnations.last().copied() else { return Ok(()) };
        for (partition, have) in self.sink.gaps(&self.source.name, life) {
            let back = self.machine.waits(partition, life, have);
            self.tell(&back.alarms);
            self.commit(back.items, Durability::Relaxed).await?;
        }
        Ok(())
    }

    /// Suspends the sink when it is over its budget.
    async fn keep_budget(&mut self) -> Result<()> {
        let now = self.store.now().await?;
        let sinks = self.store.sinks().await?;
        let Some(state) = sinks.iter().find(|state| state.name == self.options.sink) else {
            return Ok(());
        };
        let suspended = state.suspended.is_some();
        if self.suspended && !suspended {
            // It goes on at once, from its stored cursors: what it waited for before is over.
            self.machine.start_over();
            self.renew_at = Instant::now();
        }
        self.suspended = suspended;
        let age = state.oldest.map_or(Duration::ZERO, |oldest| now.since(oldest));
        let name = self.options.sink.to_string();
        metrics::gauge!("onewrite_sink_lag_records", "sink" => name.clone())
            .set(state.behind as f64);
        metrics::gauge!("onewrite_sink_lag_bytes", "sink" => name.clone())
            .set(state.bytes_behind as f64);
        metrics::gauge!("onewrite_sink_lag_seconds", "sink" => name).set(age.as_secs_f64());
        let budget = self.options.budget;
        if self.suspended || (age <= budget.age && state.bytes_behind <= budget.bytes) {
            return Ok(());
        }
        let reason = format!(
            "{} records wait, the oldest for {} s, {} bytes",
            state.behind,
            age.as_secs(),
            state.bytes_behind
        );
        let op =
            Op::Suspend { sink: self.options.sink.clone(), reason: Some(reason.clone().into()) };
        self.commit(vec![Item { fence: None, ops: vec![op] }], Durability::Durable).await?;
        self.suspended = true;
        tracing::error!(sink = %self.options.sink, "OW0020: the sink is over its budget and is suspended: {reason}");
        Ok(())
    }

    pub(super) fn tell(&self, alarms: &[Alarm]) {
        let sink = &self.options.sink;
        for alarm in alarms {
            metrics::counter!("onewrite_relay_alarms_total", "sink" => sink.to_string())
                .increment(1);
            match alarm {
                Alarm::SinkAhead(partition) => tracing::error!(
                    %sink, partition, "OW0013: the receiver knows records that this source does not have; the partition stops"
                ),
                Alarm::FellBack(partition) => tracing::warn!(
                    %sink, partition, "OW0017: the receiver fell back behind what it had accepted; its records are sent again"
                ),
                Alarm::Parked(_) => {
                    tracing::error!(%sink, "OW0019: an event was refused too often; its key is parked")
                }
            }
        }
    }

    /// Gives leases back whose last write has an unknown outcome. Taken again they have a new epoch,
    /// which refuses that write, should it still be on its way.
    async fn release_unsure(&mut self) -> Result<()> {
        let release = self
            .unsure
            .drain(..)
            .map(|fence| Item { fence: Some(fence.clone()), ops: vec![Op::Release(fence)] })
            .collect();
        self.commit(release, Durability::Durable).await
    }
}

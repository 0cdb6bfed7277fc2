//! Taking sagas up from the store: what others left unfinished, and what is due.

use std::sync::Arc;

use onewrite_core::{
    Code, Error, Partition, Result,
    saga::{
        Checked, Definition, DefinitionId, Input, Saga,
        journal::{FindSagas, SavedSaga, Waits},
    },
};

use super::Driver;

/// Sagas read at once.
const PAGE: usize = 500;

/// A look for forgotten sagas after so many looks for due ones.
const WATCHDOG_EVERY: u32 = 50;

impl Driver {
    pub(super) async fn take_up(&mut self, take: bool) -> Result<()> {
        for id in std::mem::take(&mut self.reload) {
            if !self.live.contains_key(&id)
                && let Some(saved) = self.store.sagas(FindSagas::Id(id)).await?.pop()
            {
                self.load(&saved).await;
            }
        }
        if !take {
            return Ok(());
        }
        self.recover().await?;
        // What is on its way to another owner takes up nothing: it would be handed back, be due, and be taken
        // up again, and never get there.
        let stays = |partition: &Partition| !self.leaving.contains(partition);
        let partitions: Vec<_> = self.leases.partitions().into_iter().filter(stays).collect();
        let room = self.options.live_max.saturating_sub(self.live.len());
        if room > 0 && !partitions.is_empty() {
            let waiting = self.timers.len();
            let limit = room.min(PAGE).saturating_add(waiting);
            for saved in self.store.sagas(FindSagas::Due { partitions, limit }).await? {
                self.load(&saved).await;
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
    pub(super) async fn recover(&mut self) -> Result<()> {
        while !self.recovering.0.is_empty() && self.live.len() < self.options.live_max {
            let (partitions, after) =
                (self.recovering.0.iter().copied().collect(), self.recovering.1);
            let page = FindSagas::Leased { partitions, after, limit: PAGE };
            let found = self.store.sagas(page).await?;
            let full = found.len() == PAGE;
            for saved in &found {
                self.recovering.1 = saved.id;
                self.load(saved).await;
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

    /// Takes a saga into memory: what may be in flight is counted, and that it goes on is written, before
    /// anything of it is attempted. One that cannot be read is left alone, and the others go on.
    pub(super) async fn load(&mut self, saved: &SavedSaga) {
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
        self.insert(saga, saved.partition, fence.epoch, Vec::new());
        if saved.standing.waits == Waits::Lease {
            metrics::counter!("onewrite_saga_takeovers_total").increment(1);
            self.give(saved.id, Input::TakenOver);
        } else {
            self.give(saved.id, Input::Time);
        }
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

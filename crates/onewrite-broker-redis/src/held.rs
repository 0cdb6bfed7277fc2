//! What one process holds of a lane: entries that were read and are not answered.
//!
//! The server lets a group hold as much as it reads, so the limit is kept here.

use std::{
    collections::HashSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;

use crate::message::EntryId;

/// The entries held of one lane.
#[derive(Debug, Default)]
pub(crate) struct Held {
    ids: Mutex<HashSet<EntryId>>,
    room: Notify,
    acknowledged: AtomicBool,
}

impl Held {
    /// Forgets all: what is not answered comes again.
    pub(crate) fn clear(&self) {
        self.ids().clear();
    }

    /// Notes what was read.
    pub(crate) fn add(&self, id: EntryId) {
        self.ids().insert(id);
    }

    /// Notes what was acknowledged, which makes room.
    pub(crate) fn remove(&self, ids: &[EntryId]) {
        let mut held = self.ids();
        for id in ids {
            held.remove(id);
        }
        self.acknowledged.store(true, Ordering::Relaxed);
        self.room.notify_one();
    }

    /// How many more may be held.
    pub(crate) fn room(&self, max: usize) -> usize {
        max.saturating_sub(self.ids().len())
    }

    /// Returns when something was acknowledged, perhaps a while ago.
    pub(crate) async fn changed(&self) {
        self.room.notified().await;
    }

    /// Whether something was acknowledged since this was asked last.
    pub(crate) fn take_acknowledged(&self) -> bool {
        self.acknowledged.swap(false, Ordering::Relaxed)
    }

    /// A panic while the lock was held leaves nothing half done here.
    fn ids(&self) -> MutexGuard<'_, HashSet<EntryId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

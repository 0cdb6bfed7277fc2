//! The leases that a runner holds, and the store's clock as it knows it.

use std::{collections::BTreeMap, time::Duration};

use onewrite_core::{
    Partition, Timestamp,
    lease::{Epoch, Fence},
    saga::journal::SCOPE,
};
use tokio::time::Instant;

/// The store's clock, read now and then, and carried on by this machine's monotonic one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    read: Timestamp,
    at: Instant,
}

impl Clock {
    /// This machine's own clock, until the store's is known.
    pub(super) fn own() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let micros = since.unwrap_or_default().as_micros();
        Self::new(Timestamp(i64::try_from(micros).unwrap_or(i64::MAX)))
    }

    pub(super) fn new(read: Timestamp) -> Self {
        Self { read, at: Instant::now() }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.read.plus(self.at.elapsed())
    }

    /// When `time` will be, by this machine's clock.
    pub(super) fn instant(&self, time: Timestamp) -> Instant {
        Instant::now() + time.since(self.now())
    }
}

/// Leases, and until when they hold at least.
#[derive(Debug)]
pub(super) struct Leases {
    held: BTreeMap<Partition, Epoch>,
    /// By this machine's clock, counted from before they were asked for.
    until: Instant,
}

impl Leases {
    pub(super) fn new() -> Self {
        Self { held: BTreeMap::new(), until: Instant::now() }
    }

    /// Learns what a claim that was sent at `asked` brought. Returns what was lost and what is new; a
    /// partition whose epoch changed is both.
    pub(super) fn learn(
        &mut self,
        fences: &[Fence],
        asked: Instant,
        ttl: Duration,
    ) -> (Vec<Partition>, Vec<Partition>) {
        let now: BTreeMap<_, _> =
            fences.iter().map(|fence| (fence.partition, fence.epoch)).collect();
        let differs = |a: &BTreeMap<Partition, Epoch>, b: &BTreeMap<Partition, Epoch>| {
            a.iter().filter(|(at, epoch)| b.get(at) != Some(epoch)).map(|(at, _)| *at).collect()
        };
        let changes = (differs(&self.held, &now), differs(&now, &self.held));
        self.held = now;
        self.until = asked + ttl;
        changes
    }

    /// Forgets a lease that was given back or taken away.
    pub(super) fn forget(&mut self, partition: Partition) {
        self.held.remove(&partition);
    }

    /// The right to write for `partition`, if it is held. It need not hold any more: the store decides.
    pub(super) fn fence(&self, partition: Partition) -> Option<Fence> {
        let epoch = *self.held.get(&partition)?;
        Some(Fence { scope: SCOPE, partition, epoch })
    }

    /// Whether nobody else can have taken them yet, as far as this machine's clock tells.
    pub(super) fn hold(&self) -> bool {
        Instant::now() < self.until
    }

    pub(super) fn partitions(&self) -> Vec<Partition> {
        self.held.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_whose_epoch_rose_is_lost_and_new() {
        let fence = |partition, epoch| Fence { scope: SCOPE, partition, epoch };
        let mut leases = Leases::new();
        assert!(!leases.hold());
        let (now, ttl) = (Instant::now(), Duration::from_secs(60));
        assert_eq!(leases.learn(&[fence(1, 1), fence(2, 1)], now, ttl), (vec![], vec![1, 2]));
        assert!(leases.hold());
        assert_eq!(leases.learn(&[fence(2, 2), fence(3, 1)], now, ttl), (vec![1, 2], vec![2, 3]));
        assert_eq!(leases.fence(2), Some(fence(2, 2)));
        leases.forget(2);
        assert_eq!((leases.fence(2), leases.partitions()), (None, vec![3]));
    }

    #[test]
    fn the_clock_goes_on_by_itself() {
        let clock = Clock::new(Timestamp(1_000));
        assert!(clock.now() >= Timestamp(1_000));
        let later = clock.instant(Timestamp(61_000_000));
        assert!(later > Instant::now() + Duration::from_secs(50));
    }
}

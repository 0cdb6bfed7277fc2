//! Who may act on a partition: leases with epochs.
//!
//! At most one owner's *writes are accepted*, not "at most one acts": a paused owner may still act
//! when it wakes, but its epoch is old by then and every write it makes is refused.

use crate::{Partition, Text};

/// Counts the owners a partition has had under one scope; part of every write made for it.
pub type Epoch = u64;

/// What is leased, as one namespace: `relay/<sink>`, `inbox/<consumer>`.
pub type Scope = Text;

/// The right to write for one partition until another owner takes it over.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fence {
    /// The namespace of the lease.
    pub scope: Scope,
    /// The partition.
    pub partition: Partition,
    /// The holder's epoch: a higher one in the store refuses the write.
    pub epoch: Epoch,
}

/// How many leases to take or give back so that the live members share evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Free or expired leases to take now, at most.
    pub take: usize,
    /// Own leases to give back once their work in flight is settled.
    pub give_back: usize,
}

/// The share of one member that holds `held` of `partitions`, among `members` live ones (itself
/// included). Members differ by at most one lease once all have converged.
#[must_use]
pub fn share(partitions: usize, members: usize, held: usize) -> Share {
    let upper = partitions.div_ceil(members.max(1));
    Share { take: upper.saturating_sub(held), give_back: held.saturating_sub(upper) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_share_evenly() {
        assert_eq!(share(256, 1, 0), Share { take: 256, give_back: 0 });
        assert_eq!(share(256, 2, 256), Share { take: 0, give_back: 128 });
        assert_eq!(share(256, 3, 86), Share { take: 0, give_back: 0 });
        assert_eq!(share(256, 0, 0), Share { take: 256, give_back: 0 });
    }
}

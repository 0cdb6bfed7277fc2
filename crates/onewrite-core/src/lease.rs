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
/// included), of which `extras` others hold more than the even share. Members differ by at most one
/// lease once all have converged, and nobody goes without while another has more than one.
#[must_use]
pub fn share(partitions: usize, members: usize, held: usize, extras: usize) -> Share {
    let members = members.max(1);
    let (even, left_over) = (partitions / members, partitions % members);
    let fair = even + usize::from(extras < left_over);
    Share { take: fair.saturating_sub(held), give_back: held.saturating_sub(fair) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_share_evenly() {
        assert_eq!(share(256, 1, 0, 0), Share { take: 256, give_back: 0 });
        assert_eq!(share(256, 2, 256, 0), Share { take: 0, give_back: 128 });
        assert_eq!(share(256, 3, 86, 0), Share { take: 0, give_back: 0 });
        assert_eq!(share(256, 0, 0, 0), Share { take: 256, give_back: 0 });
    }

    #[test]
    fn members_converge_to_a_difference_of_one_from_wherever_they_start() {
        for partitions in 1..12_usize {
            for members in 1..6_usize {
                for first in 0..=partitions {
                    let mut held = vec![0; members];
                    held[0] = first;
                    for turn in 0..4 * members {
                        let me = turn % members;
                        let even = partitions / members;
                        let extras = (0..members)
                            .filter(|other| *other != me && held[*other] > even)
                            .count();
                        let share = share(partitions, members, held[me], extras);
                        let free = partitions - held.iter().sum::<usize>();
                        held[me] = held[me] - share.give_back + share.take.min(free);
                    }
                    let (low, high) = (held.iter().min().unwrap(), held.iter().max().unwrap());
                    assert!(high - low <= 1, "{partitions} partitions: {held:?}");
                    assert_eq!(held.iter().sum::<usize>(), partitions, "all are held");
                }
            }
        }
    }
}

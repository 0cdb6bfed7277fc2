//! Where a record stands: source, incarnation, partition, sequence.

use std::{fmt, str::FromStr};

use crate::{Code, Error, Text};

/// The partitions a new source gets unless told otherwise. Fixed once the source exists.
pub const PARTITIONS_DEFAULT: u16 = 256;

/// The unit of order, ownership and parallelism: `0 .. partitions` of its source.
pub type Partition = u16;

/// A record's place within its partition.
///
/// Sequence order is commit order within a partition. Numbers may be missing (a rolled-back number
/// is a hole that stays a hole), are never used twice, and start above [`START`].
pub type Sequence = u64;

/// "Before the first record": the cursor of a new subscriber and the predecessor of a first record.
pub const START: Sequence = 0;

/// One life of a source. It changes when the data may have gone back in time (restored backup,
/// copied file, promoted stale replica), so that a reused sequence number is never mistaken for the
/// record that carried it before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Incarnation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || {
            Error::new(
                Code::InvalidEvent,
                format!("incarnation `{text}` is not 16 hexadecimal digits"),
            )
        };
        if text.len() != 16 {
            return Err(bad());
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| bad())
    }
}

/// A source as its store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its name: the CloudEvents `source` of the events emitted here.
    pub name: Text,
    /// How many partitions its keys are spread over.
    pub partitions: u16,
    /// Its lives, oldest first: each with the first sequence that belongs to it.
    pub incarnations: Vec<(Sequence, Incarnation)>,
}

impl Source {
    /// The first sequence of a life; [`START`] when it is not one of this source.
    #[must_use]
    pub fn first_of(&self, life: Incarnation) -> Sequence {
        let found = self.incarnations.iter().find(|(_, other)| *other == life);
        found.map_or(START, |(first, _)| *first)
    }

    /// The life in which `sequence` was drawn.
    #[must_use]
    pub fn incarnation_at(&self, sequence: Sequence) -> Incarnation {
        let after = self.incarnations.partition_point(|(first, _)| *first <= sequence);
        self.incarnations.get(after.saturating_sub(1)).map(|(_, life)| *life).unwrap_or_default()
    }
}

/// The partition of `key` among `partitions`.
///
/// The hash is FNV-1a (32 bits) over the key's UTF-8 bytes, folded to 16 bits by exclusive or, modulo
/// the number of partitions. It is part of the format: every store computes the same in SQL for rows
/// that other languages insert. Reference: Fowler, Noll, Vo, "FNV hash", RFC 9923.
#[must_use]
pub fn partition_of(key: &str, partitions: u16) -> Partition {
    let hash = key
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let folded = (hash >> 16) ^ (hash & 0xffff);
    u16::try_from(folded % u32::from(partitions.max(1))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_documented_one() {
        // FNV-1a vectors: "" = 811c9dc5, "a" = e40c292c, "foobar" = bf9cf968.
        assert_eq!(partition_of("", u16::MAX), 0x811c ^ 0x9dc5);
        assert_eq!(partition_of("a", 256), (0xe40c ^ 0x292c) & 0xff);
        assert_eq!(partition_of("foobar", 256), (0xbf9c ^ 0xf968) & 0xff);
        assert_eq!(partition_of("anything", 1), 0);
    }

    #[test]
    fn keys_spread_evenly() {
        let mut load = [0_u32; 256];
        for n in 0..256_000 {
            load[usize::from(partition_of(&format!("order-{n}"), 256))] += 1;
        }
        assert!(load.iter().all(|n| (700..1300).contains(n)), "{load:?}");
    }

    #[test]
    fn a_sequence_belongs_to_the_life_that_drew_it() {
        let source = Source {
            name: Text::from_static("shop"),
            partitions: 1,
            incarnations: vec![(1, Incarnation(7)), (100, Incarnation(8))],
        };
        assert_eq!(source.incarnation_at(1), Incarnation(7));
        assert_eq!(source.incarnation_at(99), Incarnation(7));
        assert_eq!(source.incarnation_at(100), Incarnation(8));
    }
}

//! An event that has its place in a log, and that record on its way to one receiver.

use crate::{Event, Incarnation, Partition, Sequence, Text};

/// An event with its place: committed, numbered, immutable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The source that committed it.
    pub source: Text,
    /// The life of the source in which it was committed.
    pub incarnation: Incarnation,
    /// The partition of its key.
    pub partition: Partition,
    /// Its number in the partition: sequence order is commit order there.
    pub sequence: Sequence,
    /// What happened. Its `id`, `time` and `key` are set.
    pub event: Event,
}

impl Record {
    /// The event's id; empty only for a record built by hand without one.
    #[must_use]
    pub fn id(&self) -> &str {
        self.event.id.as_deref().unwrap_or_default()
    }
}

/// A record on its way to one receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What is delivered.
    pub record: Record,
    /// How its receiver tells whether it has seen it, and whether something is missing before it.
    pub order: Order,
}

/// How a receiver judges one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Part of an ordered stream. `previous` is the sequence delivered before it in this partition of
    /// this stream: sequences have holes, so only this chain tells a hole from a loss.
    Chained {
        /// The predecessor's sequence; [`crate::position::START`] for the first.
        previous: Sequence,
    },
    /// Delivered outside the stream (a foreign source, a re-driven dead letter): it may come below
    /// the high-water mark, so it is deduplicated by event id.
    ById,
}

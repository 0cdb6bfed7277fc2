//! Parked keys: a key whose event keeps failing is set aside, in order, while the others flow.
//!
//! The first event that is given up parks its key. From then on every event of that key goes to the
//! parking lot behind it, in the same transaction that moves the cursor (or the mark) past it, so the
//! key's order survives. An operator asks for a retry or a discard; the owner of the partition carries
//! it out, one event at a time from the front, and the key is freed in the transaction that removes
//! its last event.

use crate::{Partition, Record, Sequence, Text, Timestamp, lease::Scope};

/// What is to happen to a parked key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// Nothing yet: it waits for an operator.
    Wait,
    /// Deliver its events again, in order.
    Retry,
    /// Drop its events.
    Discard,
}

impl Request {
    /// The word stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Retry => "retry",
            Self::Discard => "discard",
        }
    }

    /// Reads the word stored; anything unknown waits for an operator.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "retry" => Self::Retry,
            "discard" => Self::Discard,
            _ => Self::Wait,
        }
    }
}

/// A key set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedKey {
    /// Where it is parked: `relay/<sink>` or `inbox/<consumer>`.
    pub scope: Scope,
    /// The source of its events.
    pub source: Text,
    /// The partition of the key.
    pub partition: Partition,
    /// The key.
    pub key: Text,
    /// What an operator asked for.
    pub request: Request,
    /// Why it was parked, as one sentence without payload.
    pub reason: Text,
    /// When it was parked.
    pub since: Timestamp,
    /// How many of its events wait.
    pub waiting: u64,
    /// How often a re-drive has failed.
    pub redrives: u32,
}

/// One event of a parked key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedRecord {
    /// Its place in the key's queue: re-driven from the lowest.
    pub position: Sequence,
    /// The record as it would have been delivered.
    pub record: Record,
}

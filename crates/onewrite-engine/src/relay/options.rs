//! How a relay works.

use std::time::Duration;

use onewrite_core::{Text, retry::Backoff, sabotage::Sabotage, store::From};

/// How far a sink may fall behind before it is suspended.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// The age of its oldest record not settled.
    pub age: Duration,
    /// The bytes of data not settled.
    pub bytes: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { age: Duration::from_secs(7 * 24 * 60 * 60), bytes: 8 * 1024 * 1024 * 1024 }
    }
}

/// How a relay works.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// The sink's name: names its cursors and leases.
    pub sink: Text,
    /// Only these event types; empty for all.
    pub kinds: Vec<Text>,
    /// Where a new sink starts.
    pub from: From,
    /// Records in one batch at most.
    pub batch_max: usize,
    /// Bytes of events in one batch at most (one larger event still goes, alone).
    pub batch_bytes_max: usize,
    /// How long leases hold without renewal: the longest a dead relay's partitions wait.
    pub lease_ttl: Duration,
    /// The longest wait between two looks at the log, should a wake-up get lost.
    pub poll: Duration,
    /// Pauses between attempts.
    pub backoff: Backoff,
    /// A record refused so often parks its key.
    pub attempts_max: u32,
    /// How far the sink may fall behind.
    pub budget: Budget,
    /// Defects planted by tests.
    pub sabotage: Sabotage,
}

impl RelayOptions {
    /// The defaults for a sink of this name: all types, from the beginning, 1,000 records or 1 MiB at
    /// a time, leases of ten seconds.
    pub fn new(sink: impl Into<Text>) -> Self {
        Self {
            sink: sink.into(),
            kinds: Vec::new(),
            from: From::Beginning,
            batch_max: 1_000,
            batch_bytes_max: 1024 * 1024,
            lease_ttl: Duration::from_secs(10),
            poll: Duration::from_millis(200),
            backoff: Backoff::default(),
            attempts_max: 8,
            budget: Budget::default(),
            sabotage: Sabotage::from_env(),
        }
    }
}

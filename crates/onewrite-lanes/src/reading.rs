//! What a receiver decides about its reading, whatever the broker.

use std::{fmt, sync::Arc, time::Duration};

use onewrite_core::{Result, Text, retry::Backoff, store::Store};

use crate::url::{invalid, is_name};

/// The shortest time that a lease may hold.
const LEASE_TTL_MIN: Duration = Duration::from_millis(100);

/// Who receives, and how much at once.
#[derive(Clone)]
pub struct Reading {
    /// The receiver's name at the broker, and of its leases: letters, digits, `-` and `_`. The same in all
    /// its processes, and another one for each receiver.
    pub consumer: Text,
    /// The receiver's database, for the leases.
    pub store: Arc<dyn Store>,
    /// Who reads: unique for the life of the process.
    pub owner: Text,
    /// How long leases hold without renewal: the longest a dead process's lanes wait (10 s).
    pub lease_ttl: Duration,
    /// Messages of one lane that are delivered and not settled, at most (2,000): bounds the memory, and
    /// how much of a partition that is not taken fits before its lane is full.
    pub pending_max: usize,
    /// Deliveries in one arrival at most (500).
    pub batch_max: usize,
    /// Bytes of events in one arrival at most (4 MiB); one larger event still comes, alone.
    pub batch_bytes_max: usize,
    /// How long an arrival waits for more to come, once something is ready (not at all).
    pub linger: Duration,
    /// Pauses before what was not taken is tried again.
    pub backoff: Backoff,
    /// How long a missing predecessor is waited for before it is announced (as long as the broker may
    /// take to deliver again what somebody else held).
    pub gap_patience: Option<Duration>,
}

impl Reading {
    /// The defaults.
    pub fn new(consumer: impl Into<Text>, store: Arc<dyn Store>, owner: impl Into<Text>) -> Self {
        Self {
            consumer: consumer.into(),
            store,
            owner: owner.into(),
            lease_ttl: Duration::from_secs(10),
            pending_max: 2_000,
            batch_max: 500,
            batch_bytes_max: 4 * 1024 * 1024,
            linger: Duration::ZERO,
            backoff: Backoff::default(),
            gap_patience: None,
        }
    }

    /// Refuses names and numbers that no receiver can have.
    ///
    /// # Errors
    /// [`InvalidConfig`](onewrite_core::Code::InvalidConfig), naming the option.
    pub fn check(&self) -> Result<()> {
        if !is_name(&self.consumer) {
            return Err(invalid(
                "the consumer of a stream is named with 1 to 200 letters, digits, `-` and `_`",
            ));
        }
        if self.pending_max == 0 || self.batch_max == 0 {
            return Err(invalid("`pending_max` and `batch_max` are 1 or more"));
        }
        if self.lease_ttl < LEASE_TTL_MIN {
            return Err(invalid("the time of a receiver's leases is 100 ms or more"));
        }
        Ok(())
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("consumer", &self.consumer)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

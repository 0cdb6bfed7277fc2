//! The inbox: what a receiver keeps, and the machine that decides about a claimed batch.
//!
//! A record's handler runs once in effect: the mark (or the id) is written in the handler's own
//! transaction. A missing predecessor is never stepped over, and nothing behind a failed record of its
//! partition is handled before it. Effects outside the transaction are not protected; they take an
//! idempotency key derived from the event id.
//!
//! Facts are stored in the receiver's own database: one row for each lane (mark and attempts), one
//! row for each event deduplicated by id, parked keys with their records.

mod attempt;
mod claim;
mod drive;
mod handler;
mod session;
mod statement;

pub use attempt::{Attempt, Group, closed, plan};
pub use claim::{Claim, Effect, Fact};
pub use drive::{Course, count, mark_first, redrive};
pub use handler::{Care, Received, caught, coded, is_trouble, refusal};
pub use session::{Act, Rows, Session, at_once};
pub use statement::{Bind, Statement, event_binds};

use std::time::Duration;

use crate::{
    BoxFuture, Code, Delivery, Error, Incarnation, Partition, Result, Sequence, Text,
    broker::{Mark, Receipt},
    parking::ParkedKey,
    sabotage::Sabotage,
};

/// A stream as its receiver sees it: one partition of one life of one source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    /// The source.
    pub source: Text,
    /// Its life.
    pub incarnation: Incarnation,
    /// The partition.
    pub partition: Partition,
}

impl Lane {
    /// The lane of a delivery.
    #[must_use]
    pub fn of(delivery: &Delivery) -> Self {
        let record = &delivery.record;
        Self {
            source: record.source.clone(),
            incarnation: record.incarnation,
            partition: record.partition,
        }
    }

    /// The partition of the source, in whichever life.
    #[must_use]
    pub fn partition(&self) -> (Text, Partition) {
        (self.source.clone(), self.partition)
    }
}

/// The receiver's one row for a lane.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LaneState {
    /// The high-water mark: everything up to here is applied.
    pub sequence: Sequence,
    /// The id of the event applied there.
    pub last_id: Text,
    /// Where the batch claimed last began.
    pub attempt_first: Sequence,
    /// How often a batch that begins there was claimed.
    pub attempts: u32,
    /// The highest sequence that came outside the stream. A sender that goes back behind it (its
    /// broker lost something) sends those records within the stream again, so up to here the stream
    /// is judged by event id as well.
    pub redriven: Sequence,
    /// The gap event that waits for an operator, if it lies above the mark. Accepting it moves the mark
    /// there.
    pub gap: Sequence,
}

/// A lane that is stopped by a gap: its sender no longer has what lies between mark and gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The consumer.
    pub consumer: Text,
    /// The lane.
    pub lane: Lane,
    /// The last sequence applied.
    pub mark: Sequence,
    /// Records up to here are gone.
    pub upto: Sequence,
}

impl LaneState {
    /// Whether the last claim has not ended well, as far as is known.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.attempts > 0 && self.attempt_first > self.sequence
    }

    /// Counts a claim from `first` on, unless the last one is unfinished, wherever it begins, and
    /// `again` is not set. Says whether it was counted. What [`Inbox::attempt`] does to one row.
    pub fn claim(&mut self, first: Sequence, again: bool) -> bool {
        if self.is_unfinished() && !again {
            return false;
        }
        if first <= self.sequence {
            // A repeat claims nothing; what is unfinished stays known.
            return true;
        }
        let repeated = self.is_unfinished() && self.attempt_first == first;
        self.attempts = if repeated { self.attempts.saturating_add(1) } else { 1 };
        self.attempt_first = first;
        true
    }
}

/// How a receiver treats what it gets.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The consumer's name: names its marks.
    pub consumer: Text,
    /// A record claimed so often without success parks its key.
    pub attempts_max: u32,
    /// Whether a gap event is passed over, or stops its partition until an operator agrees.
    pub accept_gaps: bool,
    /// Defects planted by tests.
    pub sabotage: Sabotage,
}

impl Policy {
    /// A policy with the defaults: five attempts, gaps stop.
    pub fn new(consumer: impl Into<Text>) -> Self {
        Self {
            consumer: consumer.into(),
            attempts_max: 5,
            accept_gaps: false,
            sabotage: Sabotage::default(),
        }
    }

    /// The namespace of this consumer's parked keys.
    #[must_use]
    pub fn scope(&self) -> Text {
        format!("inbox/{}", self.consumer).into()
    }
}

/// Why a handler refused an event. Any error will do; it is stored and shown without the payload, so
/// it must not hold secrets.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

/// How to run an inbox.
#[derive(Debug, Clone)]
pub struct InboxOptions {
    /// The consumer's policy.
    pub policy: Policy,
    /// How long ids of foreign and re-driven events are remembered.
    pub id_retention: Duration,
    /// The longest time after which a foreign sender may still send an event again.
    pub redelivery_horizon: Duration,
}

impl InboxOptions {
    /// The defaults: ids are remembered for eight days, for senders that repeat within seven.
    pub fn new(consumer: impl Into<Text>) -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        Self { policy: Policy::new(consumer), id_retention: 8 * day, redelivery_horizon: 7 * day }
    }

    /// Refuses what would break a promise.
    ///
    /// # Errors
    /// [`Code::UnsafeSetting`] when ids would be forgotten while a sender may still repeat them.
    pub fn check(&self) -> Result<()> {
        if self.id_retention > self.redelivery_horizon {
            return Ok(());
        }
        Err(Error::new(
            Code::UnsafeSetting,
            format!(
                "consumer `{}` would forget ids after {:?} although senders may repeat them for {:?}; raise the id retention above the redelivery horizon",
                self.policy.consumer, self.id_retention, self.redelivery_horizon
            ),
        ))
    }
}

/// A receiver's database with its handler, as the engine drives it.
///
/// 1. **one commit**: marks, ids, parked records, the handler's writes and the events it emits are
///    committed together, and receipts are given after that.
/// 2. **insert first**: whether a record is new is decided by writing, never by looking first.
/// 3. **attempt first**: an attempt is stored before the handler runs.
pub trait Inbox: Send + Sync {
    /// The policy it follows.
    fn policy(&self) -> &Policy;

    /// Counts a claim for each attempt as [`LaneState::claim`] does: not while the lane's last claim
    /// is unfinished and `again` is not set. Returns the stored states as they are now, in order, with
    /// whether each was counted. [`plan`] turns those into groups; a suspicious group is claimed with
    /// `again`, and what [`plan`] noted in its attempts is handed to [`Self::receive`].
    fn attempt(
        &self,
        attempts: Vec<Attempt>,
        again: bool,
    ) -> BoxFuture<'_, Result<Vec<(LaneState, bool)>>>;

    /// Handles a claimed batch in one transaction; receipts come in the order of the deliveries.
    fn receive(
        &self,
        deliveries: Vec<Delivery>,
        attempts: Vec<Attempt>,
    ) -> BoxFuture<'_, Result<Vec<Receipt>>>;

    /// The marks of one life of a source.
    fn marks<'a>(&'a self, source: &'a str, life: Incarnation) -> BoxFuture<'a, Result<Vec<Mark>>>;

    /// Parked keys of this consumer that an operator wants retried or discarded.
    fn requested(&self) -> BoxFuture<'_, Result<Vec<ParkedKey>>>;

    /// Carries out the request for the front record of a parked key, in one transaction. Returns how
    /// many of its records still wait, or why the handler refused again. That the record is the front
    /// of its queue and leaves it in the same transaction makes it run once: neither the mark nor its
    /// id is asked (the id may have been remembered when it was parked), the id is only added.
    fn redrive(&self, key: ParkedKey) -> BoxFuture<'_, Result<std::result::Result<u64, Text>>>;

    /// Forgets ids seen longer ago than their retention. Returns how many.
    fn forget(&self) -> BoxFuture<'_, Result<u64>>;
}

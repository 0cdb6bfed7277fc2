//! The contract of a store: one door for writing, small capabilities for reading.
//!
//! The conformance suite has a test of the same name for each numbered promise.

use std::{sync::Arc, time::Duration};

use crate::{
    BoxFuture, Error, Event, Partition, Record, Result, Sequence, Text, Timestamp,
    flow::Trace,
    inbox::Gap,
    lease::{Epoch, Fence, Scope},
    parking::{ParkedKey, ParkedRecord, Request},
    position::Source,
    saga::{
        Checked, SagaId, Signal,
        journal::{NewSaga, Transition},
    },
};

/// How far a commit must have gone before it is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Survives the end of any of our processes, but perhaps not a power cut or the crash of a database
    /// server: for what is repeated harmlessly (a cursor that falls back, an attempt that is not counted).
    Relaxed,
    /// Survives a power cut.
    Durable,
}

/// One group commit. Its items succeed or fail on their own.
#[derive(Debug, Clone)]
pub struct Batch {
    /// How far the whole group must have gone.
    pub durability: Durability,
    /// What to write, each atomic.
    pub items: Vec<Item>,
}

/// Operations that happen together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Item {
    /// The lease under which they are written; an older epoch than the store's refuses the item.
    pub fence: Option<Fence>,
    /// What to write, in order.
    pub ops: Vec<Op>,
}

/// One write of the engine.
#[derive(Debug, Clone)]
pub enum Op {
    /// Appends an event to the log.
    Emit(Box<Event>),
    /// Guards a table: from now on the database refuses a transaction that changes it and emits nothing.
    Guard {
        /// The table.
        table: Text,
    },
    /// Stops guarding a table.
    Unguard {
        /// The table.
        table: Text,
    },
    /// Creates the cursors of a sink, unless they exist.
    Subscribe {
        /// The sink.
        sink: Text,
        /// Where it starts.
        from: From,
    },
    /// Moves a cursor: all up to `sequence` is settled, the last one delivered in the stream is
    /// `chain`. Clears the cursor's failures.
    MoveCursor {
        /// The sink.
        sink: Text,
        /// The partition.
        partition: Partition,
        /// Settled up to here.
        sequence: Sequence,
        /// The last one delivered in the stream.
        chain: Sequence,
    },
    /// Notes that the record behind a cursor failed again, for `why` and for the next owner.
    FailCursor {
        /// The sink.
        sink: Text,
        /// The partition.
        partition: Partition,
        /// Failed attempts of the record behind the cursor.
        attempts: u32,
        /// When it is tried next.
        retry_at: Timestamp,
        /// Why, without payload.
        reason: Text,
    },
    /// Parks the log's record at `sequence` behind the others of its key. Refused when the log no longer
    /// has it (its sink was suspended meanwhile), so that what moves the cursor past it is refused as well.
    Park {
        /// The sink whose relay parks it.
        sink: Text,
        /// Its partition.
        partition: Partition,
        /// Its sequence.
        sequence: Sequence,
        /// Why, without payload; kept from the first record of the key.
        reason: Text,
    },
    /// Removes the front record of a parked key; with the last one the key is free.
    Unpark {
        /// Where it is parked.
        scope: Scope,
        /// The source of its events.
        source: Text,
        /// The key.
        key: Text,
        /// The record's place in the key's queue.
        position: Sequence,
    },
    /// Says what is to happen to a parked key. Applies to nothing when the key is not parked.
    Request {
        /// Where it is parked.
        scope: Scope,
        /// The source of its events.
        source: Text,
        /// The key.
        key: Text,
        /// What is to happen.
        request: Request,
        /// Why it waits again, after a failed re-drive.
        reason: Option<Text>,
    },
    /// Accepts the gaps that stop a consumer's lanes of one source: their marks move there.
    AcceptGaps {
        /// The consumer.
        consumer: Text,
        /// The source.
        source: Text,
    },
    /// Stores the definition of a saga, unless it is stored.
    DefineSaga(Arc<Checked>),
    /// Starts a saga. Applies to one, or to none when one of its name and key exists, of its run or a later one.
    StartSaga(Arc<NewSaga>),
    /// Adds a transition to a saga's journal; fails with [`crate::Code::SagaConflict`] when its number exists.
    AdvanceSaga(Arc<Transition>),
    /// Sends a signal to the saga that waits for it, now or later. Applies to one, or to none when it was sent
    /// before.
    Signal(Box<Signal>),
    /// Takes a signal that means nothing to its saga. Applies to one, or to none when it is taken.
    DropSignal {
        /// The saga.
        saga: SagaId,
        /// The signal's id.
        signal: Text,
    },
    /// Matches signals with what began to wait while they were sent. Applies to none when all are matched, and
    /// otherwise to those that were left because somebody's transaction works on them, or there are more.
    MatchSignals,
    /// Deletes signals whose time is over, at most `limit`. Applies to so many.
    TrimSignals {
        /// At most so many.
        limit: u32,
    },
    /// Deletes sagas that ended before `before`, with their journals, the oldest first and at most `limit`.
    /// Applies to so many. A saga that is a step of another one stays until that one has ended.
    TrimSagas {
        /// Sagas that ended before this may go.
        before: Timestamp,
        /// At most so many.
        limit: u32,
        /// Only those of these that may go; without it, all that may.
        only: Option<Vec<SagaId>>,
    },
    /// Gives a lease back, so that another member can take it at once.
    Release(Fence),
    /// Leaves the members of a scope, so that the others share what it gave back at once.
    Leave {
        /// The scope.
        scope: Scope,
        /// Who leaves.
        owner: Text,
    },
    /// Stops a sink that is over its budget, or lets it go on (`None`).
    Suspend {
        /// The sink.
        sink: Text,
        /// Why, or nothing to resume.
        reason: Option<Text>,
    },
    /// Deletes log records that every live sink has settled and that are older than `before`, at most
    /// `limit`, leaving their history rows.
    Trim {
        /// Records committed before this may go.
        before: Timestamp,
        /// History rows older than this go.
        history_before: Timestamp,
        /// At most so many.
        limit: u32,
    },
}

/// Where a new sink starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// With the oldest record still in the log.
    Beginning,
    /// With the next record.
    Now,
    /// With the first record placed at this time or later, by the store's clock.
    Time(Timestamp),
}

/// What a store is taken for when it is not the one that was registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Copied {
    /// Opening fails with [`crate::Code::StoreCopied`]: a person has to say.
    #[default]
    Refuse,
    /// It was moved as a whole; the original no longer exists.
    Adopt,
    /// It is a copy or a restored backup: it starts a new life, with the next record or, when
    /// something was emitted since, with the first one behind this sequence.
    Fork(Option<Sequence>),
}

/// What became of one item.
#[derive(Debug)]
pub enum Outcome {
    /// Committed; the number of rows it touched, where an operation counts them.
    Applied(u64),
    /// Refused: the lease has another owner by now.
    Fenced,
    /// Refused for another reason; the other items are not affected.
    Failed(Error),
}

/// One member's claim on the leases of a scope.
#[derive(Debug, Clone)]
pub struct Claim {
    /// What is leased.
    pub scope: Scope,
    /// How many leases the scope has: the partitions of this store, or the lanes of a broker.
    pub leases: u16,
    /// Who claims: unique for the life of the process.
    pub owner: Text,
    /// How long the leases hold without renewal.
    pub ttl: Duration,
    /// Whether free and expired leases are taken too, or own ones only renewed.
    pub take: bool,
}

/// What a member holds after a claim.
#[derive(Debug, Clone, Default)]
pub struct Claimed {
    /// Every lease it holds now.
    pub held: Vec<Fence>,
    /// How many of them it should give back once their work is settled.
    pub give_back: usize,
}

/// How far one sink is in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The partition.
    pub partition: Partition,
    /// Settled up to here.
    pub sequence: Sequence,
    /// The last one delivered in the stream.
    pub chain: Sequence,
    /// Failed attempts of the record behind it.
    pub attempts: u32,
    /// When that record is tried next, if it failed.
    pub retry_at: Option<Timestamp>,
    /// Why it failed last.
    pub reason: Option<Text>,
    /// Keys of this partition that are parked for this sink.
    pub parked: Vec<Text>,
}

/// What to read from the log.
#[derive(Debug, Clone)]
pub struct Read {
    /// Each partition with the sequence to read behind.
    pub after: Vec<(Partition, Sequence)>,
    /// At most so many records.
    pub limit: usize,
    /// At most so many bytes of events, but at least one record.
    pub bytes_max: usize,
    /// Only these event types; empty for all.
    pub kinds: Vec<Text>,
}

/// What was read: the records, and how far each partition was looked through.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// In sequence order within each partition.
    pub records: Vec<Record>,
    /// For each partition asked for: everything up to here is in `records`, or is not of a kind asked
    /// for.
    pub upto: Vec<(Partition, Sequence)>,
    /// Partitions asked for of which something behind the given sequence was deleted: up to here. Seen
    /// together with the records, so that nothing is stepped over.
    pub trimmed: Vec<(Partition, Sequence)>,
    /// Whether more may follow at once.
    pub more: bool,
}

/// A sink as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkState {
    /// Its name.
    pub name: Text,
    /// Why and since when it is suspended, if it is.
    pub suspended: Option<(Timestamp, Text)>,
    /// Its lowest cursor.
    pub sequence: Sequence,
    /// Records it has not settled; estimated once they are some thousands.
    pub behind: u64,
    /// The bytes of those, estimated likewise.
    pub bytes_behind: u64,
    /// When the oldest of those was committed.
    pub oldest: Option<Timestamp>,
}

/// A lease as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseState {
    /// What is leased.
    pub scope: Scope,
    /// The partition.
    pub partition: Partition,
    /// Who holds it; nobody after a release.
    pub owner: Option<Text>,
    /// Its epoch.
    pub epoch: Epoch,
    /// When it ends unless renewed.
    pub expires_at: Timestamp,
    /// How often it was taken from an owner that had not given it back.
    pub takeovers: u64,
}

/// Which events to find.
#[derive(Debug, Clone)]
pub enum Find {
    /// By its id.
    Id(Text),
    /// By what it belongs to.
    Correlation(Text),
    /// By its ordering key.
    Key(Text),
    /// Everything still known, for the event graph.
    All,
}

/// Tells one reader of the log when it is worth reading again.
pub trait Watch: Send {
    /// Resolves when something may have been committed since the last call resolved, at the latest
    /// after `within`. A hint: polling is the safety net.
    fn changed(&mut self, within: Duration) -> BoxFuture<'_, ()>;
}

/// Where a service's records live.
///
/// 1. **atomic**: the operations of an item happen together or not at all, whatever crashes.
/// 2. **independent**: an item that fails leaves the other items of its batch alone.
/// 3. **fenced**: an item whose fence is older than the store's epoch changes nothing.
/// 4. **durable**: once a batch with [`Durability::Durable`] is reported, it survives a power cut.
/// 5. **commit order**: within a partition, a record that becomes visible has a higher sequence than
///    every record visible before it; no number is ever used twice.
/// 6. **one owner**: at most one owner holds the current epoch of a lease, and a takeover raises it.
/// 7. **unknown**: a lost reply is [`crate::Code::CommitUnknown`], never a failure.
/// 8. **own clock**: leases, retries and retention are judged by the store's clock alone.
/// 9. **cancel**: dropping a future leaves the outcome unknown and breaks nothing.
pub trait Store: Send + Sync {
    /// The source this store holds.
    fn source(&self) -> Source;

    /// The store's clock.
    fn now(&self) -> BoxFuture<'_, Result<Timestamp>>;

    /// Writes a batch: the one door for every write of the engine. Outcomes come in the order of the
    /// items.
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Outcome>>>;

    /// A watch on the log, for one reader of it.
    fn watch(&self) -> Box<dyn Watch>;

    /// Renews a member's leases and takes its fair share of free and expired ones.
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Claimed>>;

    /// A sink's cursors, one for each partition.
    fn cursors<'a>(&'a self, sink: &'a str) -> BoxFuture<'a, Result<Vec<Cursor>>>;

    /// Reads records behind the given positions.
    fn read(&self, read: Read) -> BoxFuture<'_, Result<Page>>;

    /// The record at one place, if it is still in the log or the history knows its id.
    fn id_at(
        &self,
        partition: Partition,
        sequence: Sequence,
    ) -> BoxFuture<'_, Result<Option<Text>>>;

    /// The highest sequence ever drawn.
    fn head(&self) -> BoxFuture<'_, Result<Sequence>>;

    /// For each partition that was trimmed, the highest sequence deleted from it.
    fn trimmed(&self) -> BoxFuture<'_, Result<Vec<(Partition, Sequence)>>>;

    /// Every sink with its state.
    fn sinks(&self) -> BoxFuture<'_, Result<Vec<SinkState>>>;

    /// Every lease.
    fn leases(&self) -> BoxFuture<'_, Result<Vec<LeaseState>>>;

    /// Parked keys, of one scope or of all.
    fn parked_keys<'a>(&'a self, scope: Option<&'a str>) -> BoxFuture<'a, Result<Vec<ParkedKey>>>;

    /// The records of a parked key from the front.
    fn parked_records<'a>(
        &'a self,
        key: &'a ParkedKey,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<ParkedRecord>>>;

    /// Records trimmed in one transaction at most, so that others do not wait for it.
    fn trim_max(&self) -> u32 {
        1_000
    }

    /// The guarded tables.
    fn guards(&self) -> BoxFuture<'_, Result<Vec<Text>>>;

    /// Settings of the database that weaken a promise, each as one sentence with its cure.
    fn warnings(&self) -> BoxFuture<'_, Result<Vec<Text>>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Lanes of consumers in this store that are stopped by a gap.
    fn gaps(&self) -> BoxFuture<'_, Result<Vec<Gap>>>;

    /// Events by id, story or key, from log, history and parking lot.
    fn find(&self, find: Find) -> BoxFuture<'_, Result<Vec<Trace>>>;
}

//! Named ways to break a promise on purpose, so that a test can show that it would notice.
//!
//! Without the `sabotage` feature a [`Sabotage`] holds nothing and every question is `false` at
//! compile time. It is the only feature that changes behaviour.

/// One planted defect. Each names the promise it breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Defect {
    /// The relay moves its cursor before the receiver accepted (H13: lost on a crash).
    CursorBeforePublish = 0,
    /// Writes of an owner whose lease was taken over are accepted (H9).
    NoFence = 1,
    /// The receiver ignores the chain of predecessors (I12: a loss looks like a hole).
    NoChain = 2,
    /// The receiver moves its mark in a transaction of its own, before the effect (I3, S2).
    MarkBeforeEffect = 3,
    /// The receiver does not deduplicate (H9, I2).
    NoDedup = 4,
    /// Re-driven records are judged by the high-water mark (I13: dropped silently).
    RedriveByMark = 5,
    /// Records of a parked key are let through (I4: out of order).
    NoParking = 6,
    /// A rejected record does not stop those behind it in its partition (I6).
    AckPastFailure = 7,
    /// Sequence numbers are drawn without a memory of deleted rows (H7: reused).
    ReuseSequence = 8,
    /// The receiver's attempts are not written before the handler runs (I4: crash loop for ever).
    NoAttempts = 9,
    /// A copied or restored source keeps its incarnation and is not compared with its sinks (I14).
    NoIncarnation = 10,
    /// A key's order ends with a life of its source (I14: the next life overtakes a failed record).
    OrderWithinLife = 11,
    /// Order is taken from the creation time (H10).
    OrderByTime = 12,
    /// A saga that a person paused goes on (S37: what an operator decided is not heeded).
    IgnorePause = 13,
    /// Delivered rows are never deleted (H12: unbounded growth).
    NoRetention = 14,
    /// Commits are acknowledged without reaching the disk (S33).
    NoSync = 15,
    /// Ids of foreign events are forgotten at once (I1).
    ForgetIds = 16,
    /// What another process placed is delivered before it is on disk (S33: undone by a crash).
    DeliverUnsynced = 17,
    /// A placing that found nothing to place is taken for a sync of what another placed (S33).
    TrustEmptyPlacing = 18,
    /// Two processes place at the same time (H6: a number is drawn twice).
    PlaceUnlocked = 19,
    /// Whether a transaction is still the one that was begun is not looked at (S2: effects without a mark).
    TrustTransaction = 20,
    /// Tables whose rows come and go are not written anew (H12: unbounded growth under an old snapshot).
    NoRewrite = 21,
    /// A compensation that failed too often is taken for one that succeeded (S7: reported undone, and is not).
    ForgetCompensation = 22,
    /// Attempts begin before what permits them is durable (S2: an effect that no journal knows).
    ActBeforeJournal = 23,
    /// A transition is accepted whatever its number (S31: two owners' transitions mix).
    NoVersion = 24,
    /// Only steps that are known to be done are compensated (S8: the hidden effect of a failed one stays).
    SkipUnknown = 25,
    /// Compensations run in the order of the steps (S9: what depends on it is still there).
    ForwardOrder = 26,
    /// A process that runs sagas never looks whether it still has its leases (S18).
    ActWithoutLease = 27,
    /// A participant's barrier looks for its rows before it inserts them (S5: an effect twice, or behind its compensation).
    CheckThenAct = 28,
    /// A signal is taken whether or not it is taken already.
    TakeTwice = 29,
    /// Retention does not look whether a saga is a step of one that goes on (S2: its parent starts it anew).
    TrimChildren = 30,
    /// Retention deletes what is old, whichever sagas it was told to delete (a saga is gone that no archive kept).
    TrimOthers = 31,
    /// Retention leaves what a saga was looked for by (another saga of its id is found by it).
    KeepAttributes = 32,
    /// A list is of all sagas, whatever attributes are asked for.
    OverlookAttributes = 33,
    /// A decision that stands is called refused when the store fails behind it.
    DenyDecision = 34,
    /// A runner forgets at once that the store takes nothing (it says that it is ready on a full disk).
    ForgetRefusals = 35,
    /// Retention deletes sagas that the archive has not kept.
    DeleteUnkept = 36,
    /// It is not looked whether the files of a SQLite database are still at their paths.
    TrustPaths = 37,
    /// A start that is durable is called refused when the store fails while its end is waited for.
    DenyStart = 38,
    /// Of many decisions none is told when the store fails behind some of them.
    DenyMany = 39,
    /// A step that is being tried is said to be tried again.
    PromiseRetry = 40,
}

/// The defects planted in one component. Empty, and of size zero, without the `sabotage` feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sabotage {
    #[cfg(feature = "sabotage")]
    planted: u64,
}

impl Sabotage {
    /// Whether `defect` is planted here.
    #[must_use]
    #[cfg(feature = "sabotage")]
    pub const fn has(self, defect: Defect) -> bool {
        self.planted & (1 << defect as u64) != 0
    }

    /// Whether `defect` is planted here: never, without the `sabotage` feature.
    #[must_use]
    #[cfg(not(feature = "sabotage"))]
    pub const fn has(self, _: Defect) -> bool {
        false
    }

    /// With `defect` planted.
    #[must_use]
    #[cfg(feature = "sabotage")]
    pub const fn with(mut self, defect: Defect) -> Self {
        self.planted |= 1 << defect as u64;
        self
    }

    /// What the parent process asked for in `ONEWRITE_SABOTAGE` (a bit set as a number).
    #[must_use]
    #[cfg(feature = "sabotage")]
    pub fn from_env() -> Self {
        Self {
            planted: std::env::var("ONEWRITE_SABOTAGE")
                .ok()
                .and_then(|bits| bits.parse().ok())
                .unwrap_or(0),
        }
    }

    /// Nothing, without the `sabotage` feature.
    #[must_use]
    #[cfg(not(feature = "sabotage"))]
    pub const fn from_env() -> Self {
        Self {}
    }

    /// The value for `ONEWRITE_SABOTAGE` that plants the same defects in a child process.
    #[must_use]
    #[cfg(feature = "sabotage")]
    pub fn to_env(self) -> String {
        self.planted.to_string()
    }
}

//! How sagas are run.

use std::{sync::Arc, time::Duration};

use onewrite_core::sabotage::Sabotage;

use super::archive::Archive;

/// How sagas are run.
#[derive(Debug, Clone)]
pub struct SagaOptions {
    /// How long leases hold without renewal. A dead process's sagas wait for a third more at most.
    pub lease_ttl: Duration,
    /// How often to look for sagas whose time has come and that are not in memory. A fiftieth as often it is
    /// looked for what was forgotten, for signals that came while something began to wait for them, and for
    /// sagas whose retention is over.
    pub poll: Duration,
    /// Transitions in one commit at most; 0 means 1, here and in the next one.
    pub batch_max: usize,
    /// Commits under way at the same time.
    pub commits_max: usize,
    /// Sagas in memory at most; more are taken up as others end or wait.
    pub live_max: usize,
    /// A saga that pauses for longer than this is not kept in memory.
    pub keep: Duration,
    /// Attempts in flight at one participant at most: the others wait their turn. 0 means 1.
    pub participant_max: usize,
    /// After so many failed attempts in a row, whichever sagas they are for, none is made at a participant for
    /// a while: for half a second to a second, and twice as long each time up to half a minute; then one at a time, until one
    /// is answered. What waits meanwhile uses up no attempts. 0 for never.
    pub breaker_after: u32,
    /// Whether others are told, by events of the store's log, which steps are done and compensated and how
    /// sagas end: `STEP.Completed`, `STEP.Failed`, `STEP.Compensated`, `STEP.Skipped`, `SAGA.Completed`, `SAGA.Compensated`.
    pub publish: bool,
    /// Sagas that ended longer ago than this are deleted with their journals, and their keys are free again;
    /// one that is a step of another stays until that one has ended. Without it, all are kept.
    pub retention: Option<Duration>,
    /// Where they go before: every saga that is deleted was kept there at least once, and while it fails none
    /// is deleted. A process that ends in between, and several processes, may keep one twice.
    pub archive: Option<Arc<dyn Archive>>,
    /// What the spread of pauses is drawn from; without it, from the system. Tests set it, so that a run
    /// repeats.
    pub seed: Option<u64>,
    /// Defects planted by tests.
    pub sabotage: Sabotage,
}

/// Leases of ten seconds, a look every 200 ms, 10,000 sagas in memory, 1,000 attempts at one
/// participant, and none for a while after 20 failures in a row; 30 days in the store after their end.
impl Default for SagaOptions {
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_secs(10),
            poll: Duration::from_millis(200),
            batch_max: 256,
            commits_max: 2,
            live_max: 10_000,
            keep: Duration::from_secs(30),
            participant_max: 1_000,
            breaker_after: 20,
            publish: false,
            retention: Some(Duration::from_secs(30 * 24 * 60 * 60)),
            archive: None,
            seed: None,
            sabotage: Sabotage::from_env(),
        }
    }
}

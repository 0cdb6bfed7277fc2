//! Named points before and after every durable act, at which a test kills or stalls the process.
//!
//! They are always compiled and inert (one relaxed load) unless the parent process arms one, so that
//! the demo kills the very binary that users run. What happens at an armed point is supplied by
//! [`on_hit`], because this crate cannot touch processes.

use std::sync::{
    Mutex, OnceLock,
    atomic::{AtomicBool, Ordering},
};

static ARMED: AtomicBool = AtomicBool::new(false);
static NEXT: Mutex<Option<Armed>> = Mutex::new(None);
static ACTION: OnceLock<fn(&'static str)> = OnceLock::new();

struct Armed {
    name: String,
    hits_left: u32,
}

/// Every failpoint of records, in the order in which a record passes it.
pub const ALL: &[&str] = &[
    "store.before_commit",
    "store.after_commit_before_reply",
    "relay.after_read_before_publish",
    "relay.after_publish_before_cursor",
    "relay.after_cursor",
    "receiver.after_attempt_before_handler",
    "receiver.after_handler_before_commit",
    "receiver.after_commit_before_reply",
];

/// Every failpoint of sagas, in the order in which a saga passes it. It also passes those of the store.
pub const SAGA: &[&str] = &[
    "saga.after_start_before_attempt",
    "saga.after_attempt_before_journal",
    "saga.after_journal_before_attempt",
];

/// The failpoints between a durable act and its acknowledgement: where a naive program loses or
/// doubles.
pub const BETWEEN_ACT_AND_ACK: &[&str] = &[
    "store.after_commit_before_reply",
    "relay.after_publish_before_cursor",
    "receiver.after_attempt_before_handler",
    "receiver.after_commit_before_reply",
];

/// Passes the point `name`. Costs one relaxed load unless something is armed.
#[inline]
pub fn hit(name: &'static str) {
    if ARMED.load(Ordering::Relaxed) {
        strike(name);
    }
}

#[cold]
fn strike(name: &'static str) {
    let mut next = NEXT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(armed) = next.as_mut().filter(|armed| armed.name == name) else { return };
    armed.hits_left = armed.hits_left.saturating_sub(1);
    if armed.hits_left > 0 {
        return;
    }
    *next = None;
    ARMED.store(false, Ordering::Relaxed);
    drop(next);
    if let Some(action) = ACTION.get() {
        action(name);
    }
}

/// Supplies what happens at an armed point: usually the end of the process. The first call wins.
pub fn on_hit(action: fn(&'static str)) {
    ACTION.get_or_init(|| action);
}

/// Arms `name`: the action runs at its `hits`-th passing from now. Replaces what was armed before.
pub fn arm(name: &str, hits: u32) {
    let mut next = NEXT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    *next = Some(Armed { name: name.to_owned(), hits_left: hits.max(1) });
    ARMED.store(true, Ordering::Relaxed);
}

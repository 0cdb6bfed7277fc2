//! Whether the store takes what a runner writes.

use std::{
    error::Error as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use onewrite_core::{
    Code, Error, Result,
    sabotage::{Defect, Sabotage},
};
use tokio::time::Instant;

/// How long a start waits for a store that is away: it may be back in a moment.
const AWAY_MAX: Duration = Duration::from_secs(5);

/// For so long counts what a write was told that is not made again: the next one shows what holds.
const KNOWN: Duration = Duration::from_secs(2);

/// What was told longer ago is not of the same time of being away.
const FORGOTTEN: Duration = Duration::from_secs(30);

/// What the store did not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A claim of leases, which is small and overwrites: that one is taken says nothing of other writes.
    Claim,
    /// What sagas write.
    Write,
}

/// Whether the store takes what this runner writes: noted by the runner, and read through its handles.
#[derive(Debug, Clone, Default)]
pub(super) struct Health(Arc<Mutex<Option<Refusing>>>);

/// The store takes nothing, since when and why.
#[derive(Debug)]
struct Refusing {
    what: What,
    since: Instant,
    last: Instant,
    code: Code,
    context: String,
    why: Option<String>,
}

impl Health {
    fn locked(&self) -> MutexGuard<'_, Option<Refusing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store took something.
    pub(super) fn took(&self) {
        *self.locked() = None;
    }

    /// The store took a claim of leases.
    pub(super) fn claimed(&self) {
        let mut now = self.locked();
        if now.as_ref().is_some_and(|refusing| refusing.what == What::Claim) {
            *now = None;
        }
    }

    /// The store took nothing, and would have taken nothing else either.
    pub(super) fn refused(&self, error: &Error, what: What, last: Instant) {
        if Sabotage::from_env().has(Defect::ForgetRefusals) {
            return;
        }
        let mut noted = self.locked();
        let before = noted.as_ref().filter(|before| last - before.last < FORGOTTEN);
        let since = before.map_or(last, |before| before.since);
        let (code, context, why) = (error.code(), error.context().to_owned(), causes(error));
        *noted = Some(Refusing { what, since, last, code, context, why });
    }

    /// Whether who wants a saga started or steered is told so, rather than kept waiting: where time alone mends nothing,
    /// and where the store has been away for long.
    pub(super) fn is_told(&self, now: Instant) -> bool {
        self.locked().as_ref().filter(|refusing| refusing.counts(now)).is_some_and(|refusing| {
            refusing.code != Code::StoreUnreachable
                || now.duration_since(refusing.since) >= AWAY_MAX
        })
    }

    /// # Errors
    /// What the store said to the last write, if it takes none.
    pub(super) fn check(&self, now: Instant) -> Result<()> {
        let noted = self.locked();
        let counts = noted.as_ref().filter(|refusing| refusing.counts(now));
        let Some(refusing) = counts else { return Ok(()) };
        let error = Error::new(refusing.code, refusing.context.clone());
        Err(match &refusing.why {
            Some(why) => error.with_source(why.clone()),
            None => error,
        })
    }
}

impl Refusing {
    /// Whether that still says something.
    fn counts(&self, now: Instant) -> bool {
        self.what == What::Claim || now.duration_since(self.last) < KNOWN
    }
}

/// What caused it, on one line.
pub(super) fn causes(error: &Error) -> Option<String> {
    let mut next = error.source();
    let mut causes = Vec::new();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    (!causes.is_empty()).then(|| causes.join(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_starts_a_saga_waits_for_a_store_that_is_away_and_not_for_space() {
        let (health, now) = (Health::default(), Instant::now());
        health.check(now).unwrap();
        let away = Error::new(Code::StoreUnreachable, "connect").with_source("refused");
        health.refused(&away, What::Write, now);
        assert_eq!(health.check(now).unwrap_err().to_string(), "OW0002: connect: refused");
        assert!(!health.is_told(now));
        health.refused(&away, What::Write, now + AWAY_MAX);
        assert!(health.is_told(now + AWAY_MAX));
        health.took();
        assert!(!health.is_told(now + AWAY_MAX));
        health.refused(&Error::new(Code::DiskFull, "commit"), What::Write, now);
        assert!(health.is_told(now));
    }

    /// Leases may find room where nothing else does, and who is told to ask elsewhere does not write any more.
    #[test]
    fn a_claim_says_nothing_of_other_writes_and_these_are_tried_again() {
        let (health, now) = (Health::default(), Instant::now());
        let full = Error::new(Code::DiskFull, "commit");
        health.refused(&full, What::Write, now);
        health.claimed();
        assert!(health.check(now).is_err());
        health.check(now + KNOWN).unwrap();
        health.refused(&full, What::Claim, now);
        assert!(health.check(now + KNOWN).is_err());
        health.claimed();
        health.check(now).unwrap();
    }
}

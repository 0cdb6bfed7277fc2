//! Whether the store takes what a runner writes.

use std::{
    error::Error as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use onewrite_core::{Code, Error, Result};
use tokio::time::Instant;

/// How long a start waits for a store that is away: it may be back in a moment.
const AWAY_MAX: Duration = Duration::from_secs(5);

/// Whether the store takes what this runner writes: noted by the runner, and read through its handles.
#[derive(Debug, Clone, Default)]
pub(super) struct Health(Arc<Mutex<Option<Refusing>>>);

/// The store takes nothing, since when and why.
#[derive(Debug)]
struct Refusing {
    since: Instant,
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

    /// The store took nothing, and would have taken nothing else either.
    pub(super) fn refused(&self, error: &Error) {
        let mut now = self.locked();
        let since = now.as_ref().map_or_else(Instant::now, |before| before.since);
        let (code, context, why) = (error.code(), error.context().to_owned(), causes(error));
        *now = Some(Refusing { since, code, context, why });
    }

    /// Whether who wants a saga started or steered is told so, rather than kept waiting: where time alone mends nothing,
    /// and where the store has been away for long.
    pub(super) fn is_told(&self, now: Instant) -> bool {
        self.locked().as_ref().is_some_and(|refusing| {
            refusing.code != Code::StoreUnreachable
                || now.duration_since(refusing.since) >= AWAY_MAX
        })
    }

    /// # Errors
    /// What the store said to the last write, if it takes none.
    pub(super) fn check(&self) -> Result<()> {
        let now = self.locked();
        let Some(refusing) = now.as_ref() else { return Ok(()) };
        let error = Error::new(refusing.code, refusing.context.clone());
        Err(match &refusing.why {
            Some(why) => error.with_source(why.clone()),
            None => error,
        })
    }
}

/// Whether it concerns every write, and not this one: who writes next is told the same.
pub(super) fn takes_nothing(error: &Error) -> bool {
    matches!(
        error.code(),
        Code::DiskFull
            | Code::ReadOnly
            | Code::SchemaMissing
            | Code::SchemaUnsupported
            | Code::StoreUnreachable
    )
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
        health.check().unwrap();
        health.refused(&Error::new(Code::StoreUnreachable, "connect").with_source("refused"));
        assert_eq!(health.check().unwrap_err().to_string(), "OW0002: connect: refused");
        assert!(!health.is_told(now));
        health.refused(&Error::new(Code::StoreUnreachable, "connect"));
        assert!(health.is_told(Instant::now() + AWAY_MAX));
        health.took();
        assert!(!health.is_told(Instant::now() + AWAY_MAX));
        health.refused(&Error::new(Code::DiskFull, "commit"));
        assert!(health.is_told(Instant::now()));
    }
}

//! TLS handshakes that failed, told now and then: who scans ports must not fill the log, and a client whose
//! certificate has expired must be found in it.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// They are told once in this time at most.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Counts the handshakes that failed since it was last told.
#[derive(Debug, Default)]
pub(super) struct Handshakes(Mutex<Failed>);

#[derive(Debug, Default)]
struct Failed {
    count: u64,
    told_at: Option<Instant>,
}

impl Handshakes {
    /// One failed.
    pub(super) fn failed(&self, peer: SocketAddr, cause: &dyn fmt::Display) {
        tracing::debug!(%peer, %cause, "a TLS handshake failed");
        if let Some(count) = self.count(Instant::now()) {
            tracing::warn!(count, last = %peer, %cause, "TLS handshakes failed; the number is since this was last said, once a minute at most");
        }
    }

    /// How many have failed, if that is to be told now.
    fn count(&self, now: Instant) -> Option<u64> {
        let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failed.count += 1;
        if failed.told_at.is_some_and(|at| now.duration_since(at) < TOLD_EVERY) {
            return None;
        }
        failed.told_at = Some(now);
        Some(std::mem::take(&mut failed.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_others_once_a_minute() {
        let (handshakes, now) = (Handshakes::default(), Instant::now());
        assert_eq!(handshakes.count(now), Some(1));
        assert_eq!([(); 5].map(|()| handshakes.count(now)), [None; 5]);
        let later = now + TOLD_EVERY;
        assert_eq!(handshakes.count(later), Some(6));
        assert_eq!(handshakes.count(later), None);
    }
}

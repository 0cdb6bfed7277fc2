//! Pauses between attempts: exponential, capped, with full jitter.

use std::time::Duration;

/// How long to pause before the next attempt.
///
/// Full jitter (the pause is drawn evenly between zero and the exponential bound) spreads those who
/// failed together. Source: Brooker, "Exponential Backoff And Jitter", 2015.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The bound of the first pause.
    pub initial: Duration,
    /// The bound no pause exceeds.
    pub cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_millis(20), cap: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The pause after `attempts` failures (from 1); `jitter` is uniform in `0.0 .. 1.0`.
    #[must_use]
    pub fn pause(&self, attempts: u32, jitter: f64) -> Duration {
        let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1).min(30));
        let bound = self.initial.saturating_mul(doubled).min(self.cap);
        bound.mul_f64(jitter.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_cap_and_jitters_fully() {
        let backoff =
            Backoff { initial: Duration::from_millis(10), cap: Duration::from_millis(100) };
        let bounds = [1, 2, 3, 4, 5, 60].map(|attempts| backoff.pause(attempts, 1.0).as_millis());
        assert_eq!(bounds, [10, 20, 40, 80, 100, 100]);
        assert_eq!(backoff.pause(3, 0.0), Duration::ZERO);
        assert_eq!(backoff.pause(3, 0.5), Duration::from_millis(20));
    }
}

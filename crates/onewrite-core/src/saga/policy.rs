//! How often and how long a step is tried.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Pauses between attempts, and the budget after which there is no further one.
///
/// Full jitter: a pause is drawn evenly between zero and the exponential bound. Source: Brooker,
/// "Exponential Backoff And Jitter", 2015.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// The bound of the first pause, in milliseconds.
    pub initial_ms: u64,
    /// What the bound grows by from pause to pause.
    pub factor: f64,
    /// The bound that no pause exceeds, in milliseconds.
    pub cap_ms: u64,
    /// Attempts at most, the first included; ten unless it is said, and with `null` any number.
    pub attempts_max: Option<u32>,
    /// No further attempt begins so long after the first, in milliseconds; without it, at any time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elapsed_max_ms: Option<u64>,
}

/// Pauses from 100 ms, doubled up to 30 s, and ten attempts.
impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            initial_ms: 100,
            factor: 2.0,
            cap_ms: 30_000,
            attempts_max: Some(10),
            elapsed_max_ms: None,
        }
    }
}

impl RetryPolicy {
    /// The default pauses, without an end: what goes forward only, and compensates, keeps trying.
    #[must_use]
    pub fn forever() -> Self {
        Self { attempts_max: None, ..Self::default() }
    }

    /// The default pauses, so many attempts.
    #[must_use]
    pub fn attempts(attempts_max: u32) -> Self {
        Self { attempts_max: Some(attempts_max), ..Self::default() }
    }

    /// The pause after `attempts` failures (from 1); `jitter` is uniform in `0.0 .. 1.0`.
    #[must_use]
    pub fn pause(&self, attempts: u32, jitter: f64) -> Duration {
        let exponent = i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX);
        let bound = (self.initial_ms as f64 * self.factor.powi(exponent)).min(self.cap_ms as f64);
        Duration::from_secs_f64(bound.max(0.0) * jitter.clamp(0.0, 1.0) / 1_000.0)
    }

    /// Whether a further attempt is allowed after `attempts` failures, if it began so long after the
    /// first one.
    #[must_use]
    pub fn allows(&self, attempts: u32, elapsed: Duration) -> bool {
        self.attempts_max.is_none_or(|most| attempts < most)
            && self.elapsed_max_ms.is_none_or(|most| elapsed < Duration::from_millis(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_by_the_factor_up_to_the_cap() {
        let policy =
            RetryPolicy { initial_ms: 10, factor: 3.0, cap_ms: 100, ..RetryPolicy::default() };
        let bounds = [1, 2, 3, 4, u32::MAX].map(|n| policy.pause(n, 1.0).as_millis());
        assert_eq!(bounds, [10, 30, 90, 100, 100]);
        assert_eq!(policy.pause(2, 0.5), Duration::from_millis(15));
    }

    #[test]
    fn what_is_stored_is_what_was_meant() {
        for policy in [RetryPolicy::forever(), RetryPolicy::default(), RetryPolicy::attempts(3)] {
            let json = serde_json::to_string(&policy).expect("JSON");
            assert_eq!(serde_json::from_str::<RetryPolicy>(&json).expect("a policy"), policy);
        }
    }

    #[test]
    fn a_budget_of_attempts_and_one_of_time_end_it() {
        let policy = RetryPolicy { elapsed_max_ms: Some(50), ..RetryPolicy::attempts(2) };
        assert!(policy.allows(1, Duration::from_millis(49)));
        assert!(!policy.allows(2, Duration::ZERO));
        assert!(!policy.allows(1, Duration::from_millis(50)));
        assert!(RetryPolicy::forever().allows(u32::MAX, Duration::MAX));
    }
}

//! What brokers with lanes share, over a broker in memory that knows no more than a log does.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod conformance;
mod log;
mod reading;

//! Kafka as a broker: its promises, and what it does about the hazards of brokers.
//!
//! The servers are librdkafka's mock, which can be told to misbehave. What needs none of that runs on the
//! server that the test run names, so that it can be another one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod conformance;
mod hazards;
mod rig;
mod settings;
mod sharing;

//! RabbitMQ as a broker, on real servers: its promises, and what it does about the hazards of brokers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod conformance;
mod hazards;
mod rig;
mod settings;

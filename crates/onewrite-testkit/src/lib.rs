//! What shows that the promises hold, and that a test would notice if they did not.
//!
//! [`history`] judges committed effects against what was committed at the source. [`sim`] runs the
//! relay and inbox machines in a seeded world with faults. [`proxy`] stands between real processes, and
//! [`powercut`] takes from a file what a process never synced. [`server`] starts real databases and brokers.

pub mod child;
pub mod conformance;
pub mod history;
pub mod powercut;
pub mod proxy;
pub mod sim;

/// Private PostgreSQL and NATS servers.
pub use onewrite_testservers as server;

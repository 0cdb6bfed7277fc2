//! What shows that the promises hold, and that a test would notice if they did not.
//!
//! [`history`] judges committed effects against what was committed at the source. [`sim`] runs the
//! relay and inbox machines in a seeded world with faults, and sagas in another. [`saga`] tests sagas of
//! yours: everything that can go wrong at a step does. [`proxy`] stands between real processes, and
//! [`powercut`] takes from a file what a process never synced. [`server`] starts real databases and
//! brokers, [`rig`] puts a source and a receiver at the two ends of one, and [`streams`] says what every
//! broker with a stream has to survive.

pub mod certificates;
pub mod child;
pub mod conformance;
pub mod history;
pub mod powercut;
pub mod proxy;
pub mod rig;
pub mod saga;
pub mod sim;
pub mod streams;

/// Private databases and brokers.
pub use onewrite_testservers as server;

//! Sagas over real files and processes: each hazard is provoked, and provoked once more against a broken
//! variant, which must show the failure.

mod bank;
mod between;
mod breaker;
mod child;
mod child_killed;
mod command;
mod decision;
mod delivery;
mod deploy;
mod durable;
mod every_fault;
mod examples;
mod killed;
mod permitted;
mod poison;
mod refused;
mod retention;
mod shared;
mod stalled;
mod taken;
mod transaction;
mod turns;
mod waiting;
mod world;

pub(crate) use child_killed::{child as parent_child, telling_child};
pub(crate) use durable::child as durable_child;
pub(crate) use killed::child;
pub(crate) use poison::child as poisoned_child;
pub(crate) use transaction::child as transferring_child;
pub(crate) use waiting::child as waiting_child;

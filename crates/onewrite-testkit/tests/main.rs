//! Proofs over the whole protocol.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod child;
mod every_fault;
mod model;
mod protocol;
mod saga;

//! The store on MariaDB, on a real server.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod barrier;
mod book;
mod conformance;
mod crash;
mod identity;
mod large;
mod order;
mod placing;
mod receive;
mod rig;
mod roles;
mod settings;
mod signals;
#[cfg(feature = "sqlx")]
mod sqlx_barrier;
#[cfg(feature = "sqlx")]
mod sqlx_conformance;
#[cfg(feature = "sqlx")]
mod sqlx_emit;
#[cfg(feature = "sqlx")]
mod sqlx_inbox;
mod transactions;

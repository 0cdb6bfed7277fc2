//! The SQLite store against real files.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod barrier;
mod broken;
mod broken_inbox;
mod conformance;
mod emit;
mod guard;
mod list;
mod opened;
#[cfg(feature = "sqlx")]
mod sqlx;
#[cfg(feature = "sqlx")]
mod sqlx_barrier;
#[cfg(feature = "sqlx")]
mod sqlx_conformance;

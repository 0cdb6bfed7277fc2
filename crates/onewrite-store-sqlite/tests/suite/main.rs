//! The SQLite store against real files.

mod broken;
mod broken_inbox;
mod conformance;
mod emit;
mod guard;
#[cfg(feature = "sqlx")]
mod sqlx;

//! The SQLite store against real files.

mod conformance;
mod emit;
mod guard;
#[cfg(feature = "sqlx")]
mod sqlx;

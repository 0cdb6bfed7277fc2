//! The PostgreSQL store against a real server.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod barrier;
mod conformance;
mod consumer;
mod copies;
mod crash;
mod cut;
mod debezium;
mod guard;
mod handlers;
mod held;
mod open;
mod order;
mod receive;
mod relays;
mod retention;
mod rig;
mod roles;
mod signals;
mod sql;
#[cfg(feature = "sqlx")]
mod sqlx_barrier;
#[cfg(feature = "sqlx")]
mod sqlx_conformance;
mod subscribe;
mod trouble;
mod upgrade;
mod wake;

//! The embedded store: one SQLite file next to the service's own tables.
//!
//! What it guarantees: an event emitted in a transaction is committed with it or not at all; its
//! sequence follows commit order (SQLite has one writer at a time, so the database's write lock is
//! the partition's lock); acknowledged writes have reached the disk (`synchronous=FULL`). What it does
//! not: it is one machine's store. Several processes of that machine may share it.
//!
//! Facts are stored in the tables of `migrations/`, each documented there.

pub mod barrier;
mod claim;
mod commit;
mod connect;
mod emit;
mod error;
mod find;
mod gap;
pub mod guard;
mod identity;
mod inbox;
mod opened;
mod parking;
mod process;
mod read;
mod reader;
mod row;
mod saga;
mod schema;
mod signal;
#[cfg(feature = "sqlx")]
pub mod sqlx;
mod statement;
mod step;
mod store;
mod trim;
mod writer;

pub use connect::Options;
pub use emit::{Placed, commit, emit};
pub use inbox::{Context, SqliteInbox};
pub use onewrite_core::{
    inbox::{HandlerError, InboxOptions},
    store::Copied,
};
pub use rusqlite;
pub use schema::SCHEMA_VERSION;
pub use signal::signal;
pub use store::SqliteStore;

/// The URL scheme of this store: `sqlite:shop.db`.
pub const URL_SCHEME: &str = "sqlite";

//! The store on PostgreSQL: the schema `onewrite` next to the service's own tables.
//!
//! What it guarantees: an event emitted in a transaction is committed with it or not at all; within a
//! partition sequence order is commit order, whatever runs how long elsewhere; any number of processes
//! share the work. What it does not: the server's own durability (see [`onewrite_core::store::Store::warnings`]).
//!
//! Facts are stored in the tables of `migrations/`, each documented there; programs in other languages
//! use the functions there.

pub mod barrier;
mod claim;
mod commit;
mod connect;
mod emit;
mod error;
mod find;
mod gap;
mod guard;
mod inbox;
mod parking;
mod read;
mod row;
mod saga;
mod schema;
#[cfg(feature = "sqlx")]
pub mod sqlx;
mod statement;
mod step;
mod store;
mod trim;
mod wake;

pub use connect::Options;
pub use deadpool_postgres;
pub use emit::{Placed, UserTransaction, emit, emit_at_once};
pub use error::failed;
pub use inbox::{Context, PostgresInbox};
pub use onewrite_core::{
    inbox::{HandlerError, InboxOptions},
    store::Copied,
};
pub use schema::SCHEMA_VERSION;
pub use store::PostgresStore;
pub use tokio_postgres;

/// The URL scheme of this store: `postgres://user@host/database`.
pub const URL_SCHEME: &str = "postgres";

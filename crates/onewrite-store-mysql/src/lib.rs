//! The store on MariaDB and MySQL: tables named `onewrite_…` next to the service's own.
//!
//! What it guarantees: an event emitted in a transaction is committed with it or not at all; the events of
//! a key are delivered in the order in which their transactions commit; any number of processes share the
//! work. What it does not: the server's own durability (see [`onewrite_core::store::Store::warnings`]), and
//! a guard: these servers have no check that waits for the end of a transaction.
//!
//! How events get their place: a user inserts into `onewrite_outbox`, where a trigger locks the row of the
//! key's hash until the transaction ends; whoever reads the log next moves committed rows there in that
//! order, one process at a time. Facts are stored in the tables of `migrations/`, each documented there.

pub mod barrier;
mod claim;
mod client;
mod commit;
mod connect;
mod emit;
mod error;
mod find;
mod gap;
mod inbox;
mod parking;
mod place;
mod read;
mod roles;
mod row;
mod saga;
mod schema;
#[cfg(feature = "sqlx")]
pub mod sqlx;
mod step;
mod store;
mod trim;
mod wake;

pub use connect::Options;
pub use emit::{emit, emit_all};
pub use error::failed;
pub use inbox::{Context, MysqlInbox};
pub use mysql_async;
pub use onewrite_core::{
    inbox::{HandlerError, InboxOptions},
    store::Copied,
};
pub use schema::SCHEMA_VERSION;
pub use store::MysqlStore;

/// The URL scheme of this store: `mysql://user@host/database`, or `mariadb://…`.
pub const URL_SCHEME: &str = "mysql";

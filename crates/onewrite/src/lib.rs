//! Write to one, derive the rest.
//!
//! A change and the events that must follow from it are written in one local transaction to one
//! database; a relay reads that database's log in order and delivers; the receiving side makes repeats
//! harmless. This crate is what a service imports.
//!
//! The features `postgres` and `mysql` add stores, `nats`, `rabbitmq`, `redis` and `kafka` brokers, `sqlx` the
//! transactions of its users.
//!
//! ```
//! use std::sync::Arc;
//! use onewrite::{Event, Relay, RelayOptions, Receiver, ReceiverOptions, Shutdown, memory, sqlite};
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! // One service: its rows and its events are one commit.
//! let orders = sqlite::SqliteStore::open(sqlite::Options::new(folder.path().join("orders.db")))?;
//! orders.write(|tx| {
//!     tx.execute_batch("CREATE TABLE orders (id TEXT PRIMARY KEY, cents INTEGER)").map_err(onewrite::other)
//! }).await?;
//! orders.write(|tx| {
//!     tx.execute("INSERT INTO orders VALUES ('o-1', 4200)", []).map_err(onewrite::other)?;
//!     sqlite::emit(tx, &Event::new("OrderCreated", "Order", "o-1").json(&42)?)
//! }).await?;
//!
//! // Another service: its reaction and its mark are one commit, so a repeat changes nothing.
//! let payments = sqlite::SqliteStore::open(sqlite::Options::new(folder.path().join("payments.db")))?;
//! payments.write(|tx| {
//!     tx.execute_batch("CREATE TABLE payments (order_id TEXT)").map_err(onewrite::other)
//! }).await?;
//! let inbox = sqlite::SqliteInbox::new(&payments, sqlite::InboxOptions::new("payments"), |cx| {
//!     cx.tx().execute("INSERT INTO payments VALUES (?1)", [&*cx.event().aggregate_id])?;
//!     cx.emit(Event::new("PaymentCompleted", "Order", cx.event().aggregate_id.clone()))?;
//!     Ok(())
//! })?;
//!
//! // Between them: a relay and a receiver.
//! let shutdown = Shutdown::default();
//! let (sink, feed) = memory("doc-payments");
//! let relay = Relay::new(Arc::new(orders), Arc::new(sink), RelayOptions::new("payments"), "doc");
//! let receiver = Receiver::new(Arc::new(inbox), ReceiverOptions::default());
//! let relay = tokio::spawn(relay.run(shutdown.clone()));
//! let receiver = tokio::spawn(receiver.run(Box::new(feed), shutdown.clone()));
//!
//! # let mut log = onewrite::Store::watch(&payments);
//! # while payments.read_with(|db| db.query_row("SELECT count(*) FROM payments", [], |row| row.get::<_, i64>(0)).map_err(onewrite::other)).await? == 0 {
//! #     log.changed(std::time::Duration::from_millis(100)).await;
//! # }
//! shutdown.begin();
//! relay.await?;
//! receiver.await?;
//! # Ok(()) }
//! ```

pub mod saga;
pub mod stream;

pub use onewrite_broker_http as http;
#[cfg(feature = "kafka")]
pub use onewrite_broker_kafka as kafka;
pub use onewrite_broker_local::{MemoryFeed, MemorySink, NullSink, StdoutSink, memory};
#[cfg(feature = "nats")]
pub use onewrite_broker_nats as nats;
#[cfg(feature = "rabbitmq")]
pub use onewrite_broker_rabbitmq as rabbitmq;
#[cfg(feature = "redis")]
pub use onewrite_broker_redis as redis;
pub use onewrite_core::{
    BoxFuture, Bytes, Code, Delivery, Error, Event, Record, Result, Text, Timestamp, broker,
    cloudevents, envelope, error, failpoint, flow, inbox, lease, parking, position, record, relay,
    retry, sabotage, store,
    store::{From as StartFrom, Store},
};
pub use onewrite_engine::{
    Budget, Receiver, ReceiverOptions, Relay, RelayOptions, Retention, Shutdown, Sweeper, control,
};
#[cfg(feature = "mysql")]
pub use onewrite_store_mysql as mysql;
#[cfg(feature = "postgres")]
pub use onewrite_store_postgres as postgres;
pub use onewrite_store_sqlite as sqlite;

/// Wraps an error of the caller's own work, to be returned from a transaction.
pub fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Code::Database, "the work in a transaction").with_source(error)
}

/// The examples of the book that stand alone.
#[cfg(doctest)]
#[doc = include_str!("../../../book/src/sagas.md")]
mod book {}

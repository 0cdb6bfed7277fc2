//! Private servers for tests: [`Postgres`], [`Mariadb`], [`Nats`], [`Rabbitmq`], [`Redis`] and
//! [`Kafka`].
//!
//! Each listens on loopback on a port of its own, keeps its data in a temporary folder, and is stopped
//! by its process id, so any number of them run side by side. It is stopped when its handle is dropped,
//! and by the system when the process that started it ends in whatever way. Its folder is removed when
//! the handle is dropped; when the process was killed, the next one that starts a server removes it.
//!
//! Most tests need a server, not one of their own: [`shared_postgres`], [`shared_mariadb`], [`shared_nats`],
//! [`shared_rabbitmq`], [`shared_redis`] and [`shared_kafka`] hand out the one of the test run, and [`unique`] a name for a
//! database or stream on it.
//!
//! Needs Linux with `setpriv` (util-linux), and the servers' own programs. A server that is not
//! installed is an error that says how to install it.

mod folder;
mod kafka;
mod mariadb;
mod nats;
pub mod port;
mod postgres;
mod process;
mod rabbitmq;
mod random;
mod redis;
mod shared;

use std::io;

pub use kafka::{Kafka, KafkaAddress, TANSU_ENV, Tansu};
pub use mariadb::{Mariadb, MariadbAddress};
pub use nats::{Nats, NatsAddress};
pub use postgres::{Postgres, PostgresAddress};
pub use rabbitmq::{Rabbitmq, RabbitmqAddress};
pub use random::unique;
pub use redis::{Redis, RedisAddress};
pub use shared::{
    KAFKA_ENV, MARIADB_ENV, NATS_ENV, POSTGRES_ENV, RABBITMQ_ENV, REDIS_ENV, shared_kafka,
    shared_mariadb, shared_nats, shared_postgres, shared_rabbitmq, shared_redis,
};

/// Runs what waits for processes beside the async threads. Timers of the runtime would not do: a test
/// may have stopped its clock.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

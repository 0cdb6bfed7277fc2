//! The servers of a test run.
//!
//! `cargo xtask test` starts a process for each test, and one server of each kind for all of them, which
//! it names in the environment. A process that is not told of one starts its own with the first test
//! that asks, and keeps it until it ends.

use std::{env, io};

use tokio::sync::OnceCell;

use crate::{
    Kafka, KafkaAddress, Mariadb, MariadbAddress, Nats, NatsAddress, Postgres, PostgresAddress,
    Rabbitmq, RabbitmqAddress, Redis, RedisAddress,
};

/// Names the PostgreSQL server of the test run: `postgres://postgres:PASSWORD@127.0.0.1:PORT`.
pub const POSTGRES_ENV: &str = "ONEWRITE_TEST_POSTGRES";
/// Names the MariaDB server of the test run: `mysql://onewrite:PASSWORD@127.0.0.1:PORT`.
pub const MARIADB_ENV: &str = "ONEWRITE_TEST_MARIADB";
/// Names the NATS server of the test run: `nats://127.0.0.1:PORT`.
pub const NATS_ENV: &str = "ONEWRITE_TEST_NATS";
/// Names the RabbitMQ server of the test run: `amqp://127.0.0.1:PORT`.
pub const RABBITMQ_ENV: &str = "ONEWRITE_TEST_RABBITMQ";
/// Names the Redis server of the test run: `redis://127.0.0.1:PORT`.
pub const REDIS_ENV: &str = "ONEWRITE_TEST_REDIS";
/// Names the Kafka server of the test run: `kafka://127.0.0.1:PORT`, with `#COMMANDS` for the mock.
pub const KAFKA_ENV: &str = "ONEWRITE_TEST_KAFKA";

/// The PostgreSQL server of this test run: the one that [`POSTGRES_ENV`] names, else one of this process.
///
/// Other tests use it at the same time: work in a database of your own, and do not stop it.
///
/// # Errors
/// When [`POSTGRES_ENV`] holds something else, or as [`Postgres::start`].
pub async fn shared_postgres() -> io::Result<&'static PostgresAddress> {
    static SHARED: OnceCell<(PostgresAddress, Option<Postgres>)> = OnceCell::const_new();
    let start = async || {
        if let Some(url) = named(POSTGRES_ENV) {
            let address =
                PostgresAddress::parse(&url).ok_or_else(|| not_understood(POSTGRES_ENV))?;
            return Ok((address, None));
        }
        let server = Postgres::start().await?;
        Ok::<_, io::Error>((server.address().clone(), Some(server)))
    };
    Ok(&SHARED.get_or_try_init(start).await?.0)
}

/// The MariaDB server of this test run: the one that [`MARIADB_ENV`] names, else one of this process.
///
/// Other tests use it at the same time: work in a database of your own, and do not stop it.
///
/// # Errors
/// When [`MARIADB_ENV`] holds something else, or as [`Mariadb::start`].
pub async fn shared_mariadb() -> io::Result<&'static MariadbAddress> {
    static SHARED: OnceCell<(MariadbAddress, Option<Mariadb>)> = OnceCell::const_new();
    let start = async || {
        if let Some(url) = named(MARIADB_ENV) {
            let address = MariadbAddress::parse(&url).ok_or_else(|| not_understood(MARIADB_ENV))?;
            return Ok((address, None));
        }
        let server = Mariadb::start().await?;
        Ok::<_, io::Error>((server.address().clone(), Some(server)))
    };
    Ok(&SHARED.get_or_try_init(start).await?.0)
}

/// The NATS server of this test run: the one that [`NATS_ENV`] names, else one of this process.
///
/// Other tests use it at the same time: work on streams of your own, and do not stop it.
///
/// # Errors
/// When [`NATS_ENV`] holds something else, or as [`Nats::start`].
pub async fn shared_nats() -> io::Result<&'static NatsAddress> {
    static SHARED: OnceCell<(NatsAddress, Option<Nats>)> = OnceCell::const_new();
    let start = async || {
        if let Some(url) = named(NATS_ENV) {
            let address = NatsAddress::parse(&url).ok_or_else(|| not_understood(NATS_ENV))?;
            return Ok((address, None));
        }
        let server = Nats::start().await?;
        Ok::<_, io::Error>((server.address().clone(), Some(server)))
    };
    Ok(&SHARED.get_or_try_init(start).await?.0)
}

/// The RabbitMQ server of this test run: the one that [`RABBITMQ_ENV`] names, else one of this process.
///
/// Other tests use it at the same time: work on streams of your own, and do not stop it.
///
/// # Errors
/// When [`RABBITMQ_ENV`] holds something else, or as [`Rabbitmq::start`].
pub async fn shared_rabbitmq() -> io::Result<&'static RabbitmqAddress> {
    static SHARED: OnceCell<(RabbitmqAddress, Option<Rabbitmq>)> = OnceCell::const_new();
    let start = async || {
        if let Some(url) = named(RABBITMQ_ENV) {
            let address =
                RabbitmqAddress::parse(&url).ok_or_else(|| not_understood(RABBITMQ_ENV))?;
            return Ok((address, None));
        }
        let server = Rabbitmq::start().await?;
        Ok::<_, io::Error>((server.address().clone(), Some(server)))
    };
    Ok(&SHARED.get_or_try_init(start).await?.0)
}

/// The Redis server of this test run: the one that [`REDIS_ENV`] names, else one of this process.
///
/// Other tests use it at the same time: work on streams of your own, and do not stop it.
///
/// # Errors
/// When [`REDIS_ENV`] holds something else, or as [`Redis::start`].
pub async fn shared_redis() -> io::Result<&'static RedisAddress> {
    static SHARED: OnceCell<(RedisAddress, Option<Redis>)> = OnceCell::const_new();
    let start = async || {
        if let Some(url) = named(REDIS_ENV) {
            let address = RedisAddress::parse(&url).ok_or_else(|| not_understood(REDIS_ENV))?;
            return Ok((address, None));
        }
        let server = Redis::start().await?;
        Ok::<_, io::Error>((server.address().clone(), Some(server)))
    };
    Ok(&SHARED.get_or_try_init(start).await?.0)
}

/// The Kafka server of this test run: the one that [`KAFKA_ENV`] names, else one of this process.
///
/// Other tests use it at the same time: work on topics of your own, and do not disturb it.
///
/// # Errors
/// When [`KAFKA_ENV`] holds something else, or as [`Kafka::start`].
pub async fn shared_kafka() -> io::Result<&'static KafkaAddress> {
    static SHARED: OnceCell<(KafkaAddress, Option<Kafka>)> = OnceCell::const_new();
    let start = async || {
        if let Some(url) = named(KAFKA_ENV) {
            let address = KafkaAddress::parse(&url).ok_or_else(|| not_understood(KAFKA_ENV))?;
            return Ok((address, None));
        }
        let server = Kafka::start().await?;
        Ok::<_, io::Error>((server.address().clone(), Some(server)))
    };
    Ok(&SHARED.get_or_try_init(start).await?.0)
}

fn named(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}

fn not_understood(variable: &str) -> io::Error {
    io::Error::other(format!("{variable} is not the address of a server on 127.0.0.1"))
}

//! The servers are what tests rely on: private, real, and gone afterwards.

mod kafka;
mod mariadb;
mod nats;
mod orphans;
mod postgres;
mod rabbitmq;
mod redis;
mod shared;

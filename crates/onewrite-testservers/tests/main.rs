//! The servers are what tests rely on: private, real, and gone afterwards.

mod nats;
mod orphans;
mod postgres;
mod shared;

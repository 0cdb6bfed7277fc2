//! CloudEvents over HTTP: the broker that needs no broker. And steps of sagas over HTTP.
//!
//! [`HttpSink`] posts batches to a receiver, [`receiver`] is one, as an `axum` router with the
//! [`HttpFeed`] behind it. Any web server can take the receiver's place: a plain 2xx accepts a whole
//! batch, and [`protocol`] says how to accept a part. [`HttpParticipants`] asks other services to carry out
//! steps of sagas.
//!
//! Guaranteed: what a receiver accepted it said so, a lost reply is unknown and never a failure, a
//! target in a private range is refused unless allowed, and bodies are signed and verified by the
//! Standard Webhooks scheme when secrets are given. Not guaranteed: that an event arrives once; the
//! receiver's inbox sees to that. Nothing is stored here.

mod address;
pub mod dtm;
mod feed;
mod participant;
pub mod protocol;
pub mod signature;
mod sink;
mod target;

pub use address::is_private;
pub use feed::{
    BODY_BYTES_MAX_DEFAULT, HttpFeed, HttpFeedOptions, MarksOf, QUEUE_MAX_DEFAULT, receiver,
};
pub use participant::{HttpParticipantOptions, HttpParticipants, OUTCOME};
pub use signature::Secret;
pub use sink::{Format, HttpSink, HttpSinkOptions, TIMEOUT_DEFAULT};

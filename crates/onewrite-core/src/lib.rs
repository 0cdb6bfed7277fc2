//! The nouns, contracts and protocol machines of onewrite.
//!
//! This crate is pure: no async runtime, no SQL, no sockets, no clocks and no randomness. Time and
//! ids arrive as arguments, so the engine, the simulator and the model checker run the same code.
//!
//! Read it in this order: [`event`] and [`record`] (what travels), [`position`] (where it stands),
//! [`lease`] (who may act), [`store`] and [`broker`] (the two contracts a backend fulfils),
//! [`relay`] and [`inbox`] (the two machines that move a record), [`saga`] (the machine that finishes
//! or compensates), [`error`] (what a failure means).

pub mod broker;
pub mod cloudevents;
pub mod envelope;
pub mod error;
pub mod event;
pub mod failpoint;
pub mod flow;
pub mod inbox;
pub mod lease;
pub mod parking;
pub mod position;
pub mod record;
pub mod relay;
pub mod retry;
pub mod sabotage;
pub mod saga;
pub mod store;
pub mod time;

pub use bytes::Bytes;
pub use bytestring::ByteString as Text;
pub use error::{Code, Error, Result};
pub use event::Event;
pub use position::{Incarnation, Partition, Sequence};
pub use record::{Delivery, Record};
pub use time::Timestamp;

/// A boxed future: the traits of this crate are used as `dyn`, so that backends are chosen at run
/// time. One allocation stands beside a disk or network round trip.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

//! The drivers: they run the machines of `onewrite-core` against a store and a broker.
//!
//! A driver decides nothing: it hands facts to its machine and carries out what the machine asks for.
//! It holds no SQL and no broker client.

pub mod control;
mod receiver;
mod relay;
pub mod saga;
pub mod shutdown;
mod sweeper;

pub use receiver::{Receiver, ReceiverOptions};
pub use relay::{Budget, Relay, RelayOptions};
pub use shutdown::Shutdown;
pub use sweeper::{Retention, Sweeper};

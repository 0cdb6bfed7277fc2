//! Brokers without a network: a queue inside the process, JSON lines on standard output, nothing.

mod memory;
mod null;
mod stdout;

pub use memory::{MemoryFeed, MemorySink, memory};
pub use null::NullSink;
pub use stdout::StdoutSink;

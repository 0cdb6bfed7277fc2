//! RabbitMQ as a broker: [`RabbitSink`] publishes deliveries to an exchange, [`RabbitFeed`] consumes them.
//!
//! A stream is a direct exchange of its name, and falls into lanes: a record of partition `p` is routed by
//! `p` modulo the number of lanes. Each receiver has a quorum queue of its own for each lane, bound to that
//! routing key and named `STREAM.CONSUMER.LANE`, with a single active consumer; the processes of a receiver
//! share the lanes by leases in its database. A message is a CloudEvent: its attributes are headers with the
//! prefix `cloudEvents:`, its body is the data.
//!
//! Guaranteed: a delivery is settled for its sender only when a majority of each queue's nodes has it on
//! disk, and for the server only when the receiver has committed it; order within a partition is kept on
//! both ways, across restarts of either side and of the server. A message that no queue takes is no
//! success: it waits at its relay until a receiver has made its queues ([`RabbitSinkOptions::consumers`]
//! makes them before that). What the server loses nevertheless (a queue that was purged or deleted, a
//! limit that an operator set) is noticed by the receiver's inbox, which announces it on the exchange
//! [`gap_exchange`]; a relay that still has it sends it again.
//!
//! Not guaranteed: that an event arrives once; the server recognises no repeats, and the receiver's inbox
//! sees to that. What was published before a receiver had its queues comes to it from the log of the
//! source, as far as that reaches. A partition that its receiver cannot take holds its messages in its
//! queue; once they fill the lane ([`Reading::pending_max`]), the lane's other partitions wait too.
//!
//! Facts are stored at the server: messages in the queues, the number of lanes as the limit of the queue
//! `STREAM.lanes`, which stays empty. Who reads which lane is stored in the receiver's database. It works
//! with RabbitMQ servers from 3.8 on.

mod channel;
mod connect;
mod feed;
mod gaps;
mod lanes;
mod message;
mod publish;
mod reader;
mod sink;
mod stream;
mod url;

pub use feed::{RabbitFeed, RabbitFeedOptions};
pub use gaps::gap_exchange;
pub use onewrite_lanes::{Announcement, Closer, Reading};
pub use sink::{MESSAGE_BYTES_MAX_DEFAULT, RabbitSink, RabbitSinkOptions, WINDOW_DEFAULT};
pub use stream::{LANES_DEFAULT, StreamOptions, remove};

//! Kafka as a broker: [`KafkaSink`] publishes deliveries to a topic, [`KafkaFeed`] reads them.
//!
//! The lanes of the stream are the partitions of the topic. A record of our partition `p` goes to Kafka's
//! partition `p` modulo their number, or where its key belongs ([`PartitionBy`]). A message is a CloudEvent
//! in the binary mode of the Kafka protocol binding. For each receiver a group notes how far it is, and the
//! processes of a receiver share the lanes by leases in its database, not by joining the group.
//!
//! Guaranteed: a delivery is settled for its sender only when the servers have stored it on as many replicas
//! as the topic asks for, and for its group only when the receiver has committed it and everything before
//! it in its lane; order within a partition is kept on both ways, across restarts of either side and of the
//! servers. What the servers lose nevertheless is noticed by the receiver's inbox, which announces it on
//! the topic [`gap_topic`]; a relay that still has it sends it again.
//!
//! Not guaranteed: that an event arrives once; the receiver's inbox sees to that. That a message is still
//! there for a receiver that was away for longer than the topic keeps it: that is a loss like any other. A
//! group is told of one place for each lane, so behind a message that is not taken everything is read again
//! after a restart, and recognised. A partition that its receiver cannot take holds its messages in its
//! lane; once they fill the lane ([`Reading::pending_max`]), the lane's other partitions wait too.
//!
//! Kafka's transactions are not used: they would make what is sent and the place that is noted visible
//! together, and here what counts is in two databases, which take no part in them. A publish whose answer was
//! lost is sent again and recognised by the inbox, with them or without. Those of others are honoured: only
//! what they committed is read.
//!
//! Partitions can be added to a topic while receivers and relays run, which go on with those they found.
//! Start the receivers anew and then the relays: a partition of ours may then move to another of Kafka's, and
//! what arrives there too early waits for its predecessors.
//!
//! Facts are stored at the servers: messages, and offsets of groups. Who reads which lane is stored in the
//! receiver's database. The client is librdkafka, built from the sources that `rdkafka` brings; TLS needs that
//! to be built with OpenSSL, which the program that links it decides ([`StreamOptions::tls`]).

mod connect;
mod feed;
mod gaps;
mod held;
mod lanes;
mod message;
mod producer;
mod publish;
mod reader;
mod sink;
mod stream;
mod topics;
mod url;
mod warnings;

pub use feed::{KafkaFeed, KafkaFeedOptions};
pub use gaps::gap_topic;
pub use onewrite_lanes::{Announcement, Closer, Reading};
pub use sink::{
    KafkaSink, KafkaSinkOptions, MESSAGE_BYTES_MAX_DEFAULT, PartitionBy, WINDOW_DEFAULT,
};
pub use stream::{LANES_DEFAULT, Sasl, StreamOptions, remove};

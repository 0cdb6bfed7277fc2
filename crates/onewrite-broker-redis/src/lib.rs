//! Redis Streams as a broker: [`RedisSink`] appends deliveries to a stream, [`RedisFeed`] reads them.
//!
//! The stream falls into lanes, each of them a stream of Redis under the key `STREAM:LANE`. A record of
//! partition `p` goes to the lane `p` modulo the number of lanes. An entry is a CloudEvent: its attributes
//! are fields under their own names, its data is the field `data`. Each lane is read by one consumer group
//! for each receiver, and the processes of a receiver share the lanes by leases in its database.
//!
//! A record is appended by a script, which knows what was appended last in its partition and decides as an
//! inbox does: what is at or below that is a repeat, and nothing is appended whose predecessor is missing.
//! So a repeat costs no memory, a server that was full does not fill up with what nobody can take, and one
//! that went back in time (it restarted without its file, or a replica that lagged took over) is sent what
//! it lost as soon as the next record arrives.
//!
//! Guaranteed: a delivery is settled for its sender only when the server has stored it, and for the
//! server only when the receiver has committed it; order within a partition is kept on both ways, across
//! restarts of either side and of the server. What the server loses nevertheless is noticed, by its own
//! script or by the receiver's inbox, which announces it on the channel [`gap_channel`]; a relay that still
//! has it sends it again. What a group has not acknowledged is never removed.
//!
//! Not guaranteed: that an event arrives once; the receiver's inbox sees to that. That an entry stays once
//! every group has acknowledged it: a receiver that comes later gets earlier events from the log of their
//! source, as far as that reaches. A partition that its receiver cannot take holds its entries in its lane;
//! once they fill the lane ([`RedisFeedOptions::pending_max`]), the lane's other partitions wait too.
//!
//! Facts are stored at the server: entries and groups in `STREAM:LANE`, what was appended last in
//! `{STREAM:LANE}:last`, the number of lanes in `STREAM`. Who reads which lane is stored in the receiver's
//! database. The two keys of a lane share a slot, and no command needs two lanes; clusters are refused
//! all the same, as the client here follows no redirections. It works with Redis servers from 7.0 on.

mod connect;
mod feed;
mod gaps;
mod held;
mod lanes;
mod message;
mod publish;
mod reader;
mod sink;
mod stream;
mod url;
mod warnings;

pub use feed::{RedisFeed, RedisFeedOptions};
pub use gaps::gap_channel;
pub use onewrite_lanes::{Announcement, Closer, Reading};
pub use sink::{RedisSink, RedisSinkOptions, WINDOW_DEFAULT};
pub use stream::{LANES_DEFAULT, StreamOptions, remove};

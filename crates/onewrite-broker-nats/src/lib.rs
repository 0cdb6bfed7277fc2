//! NATS JetStream as a broker: [`NatsSink`] writes deliveries to a stream, [`NatsFeed`] reads them.
//!
//! Deliveries travel as CloudEvents in the NATS binary mode: attributes in `ce-*` headers, data as the
//! payload. A record of partition `p` goes to the subject `STREAM.LANE.p`, where the lane is `p` modulo
//! the stream's lanes; each lane is read by one durable consumer, and the processes of a receiver share
//! the lanes by leases in its database.
//!
//! Guaranteed: a delivery is settled for its sender only when the server has stored it, and for the
//! server only when the receiver has committed it; order within a partition is kept on both ways,
//! across restarts of either side and of the server. What the server loses nevertheless (it answers
//! before it syncs to disk) is noticed by the receiver's inbox, announced on the subject
//! [`gap_subject`], and sent again by a relay that still has it.
//!
//! Not guaranteed: that an event arrives once; the receiver's inbox sees to that. A partition that its
//! receiver cannot take holds its messages in its lane; once they fill the lane
//! ([`NatsFeedOptions::pending_max`]), the lane's other partitions wait too.
//!
//! Facts are stored in the stream (messages, and the number of lanes in its description), in its
//! consumers (what is acknowledged) and in the receiver's database (who reads which lane). It works with
//! NATS servers from 2.9 on.

mod connect;
mod feed;
mod gaps;
mod lanes;
mod message;
mod publish;
mod pull;
mod sink;
mod stream;
mod url;

pub use feed::{NatsFeed, NatsFeedOptions};
pub use gaps::gap_subject;
pub use onewrite_lanes::{Announcement, Closer, Reading};
pub use sink::{NatsSink, NatsSinkOptions, WINDOW_DEFAULT};
pub use stream::{LANES_DEFAULT, StreamOptions, remove};

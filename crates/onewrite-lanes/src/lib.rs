//! What brokers with lanes share when they are read: [`LaneFeed`] makes a feed of any [`Lanes`].
//!
//! The stream of such a broker falls into lanes, each of them several partitions: the subjects of a
//! consumer, a queue, a stream of its own. The processes of a receiver share them by leases in its
//! database. What a lane brought waits here until it is settled, so that a partition that is not taken
//! does not hold up the others.
//!
//! Guaranteed: order within a partition, whatever comes late, twice or again; a message is done for the
//! broker only when the receiver has settled it; a lane is handed over with nothing on its way, and what
//! was held there goes back. A predecessor that does not come is announced, again and again, to whoever
//! sends to the stream.
//!
//! Not guaranteed: that one process alone holds a lane's messages (one that stalls may wake up later), nor
//! that a message comes once; the receiver's inbox sees to both. A lane that is full of what is not taken
//! brings nothing more, and be it the record that it waits for, which was lost and is sent again behind all
//! that: nothing here is answered as done that only its broker may still have.
//!
//! Facts are stored at the broker (what is answered) and in the receiver's database (who reads which
//! lane). What a lane holds is in memory, and comes again.
//!
//! Read it in this order: `broker.rs` (what a broker does), `lane.rs` (the machine), `lane_task.rs` (what
//! runs it), `sharing.rs` and `feed.rs`. What such brokers have in common besides: [`Announced`] for the
//! sender, and [`url`].

mod announcement;
mod arrival;
mod broker;
mod feed;
mod lane;
mod lane_task;
mod reading;
mod sharing;
pub mod url;

pub use announcement::{Announced, Announcement};
pub use broker::{Answer, LaneReader, Lanes, Message};
pub use feed::{Closer, LaneFeed, LaneFeedOptions};
pub use reading::Reading;

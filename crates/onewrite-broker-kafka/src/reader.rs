//! Reading one lane: the client reads ahead, in a queue for each lane, and this takes messages from it as
//! long as there is room.

use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use onewrite_core::{Result, Text};
use onewrite_lanes::{LaneReader, Message};
use rdkafka::{
    Message as _, Offset,
    consumer::{Consumer as _, stream_consumer::StreamPartitionQueue},
    error::KafkaError,
    message::BorrowedMessage,
};
use tokio::time::Instant;

use crate::{
    connect::{Server, aside},
    held::{Held, Token},
    lanes::{KafkaLanes, ReadContext, Reads, place, tell, unreadable},
    message,
};

/// How often a group is told how far it is.
const COMMIT_EVERY: Duration = Duration::from_millis(200);

/// Reads one lane.
pub(crate) struct KafkaReader {
    server: Arc<Server>,
    consumer: Arc<Reads>,
    queue: StreamPartitionQueue<ReadContext>,
    topic: Text,
    lane: u16,
    held: Arc<Held>,
    /// Which one this is, for its tokens.
    number: u64,
    pending_max: usize,
    commit_at: Instant,
    stopping: bool,
}

impl KafkaReader {
    /// Begins to read where the group is.
    ///
    /// The group is asked here: a place that the client takes from it by itself is held against the end of
    /// the topic, and where a topic was made anew it would begin there instead of at its beginning.
    ///
    /// # Errors
    /// When the servers do not say, or the client does not take the lane.
    pub(crate) async fn open(lanes: &KafkaLanes, lane: u16) -> Result<Self> {
        let (consumer, topic) = (&lanes.consumer, &lanes.layout.stream);
        let failed = |error| unreadable(&lanes.server, error);
        let from = committed(lanes, lane).await?;
        // First, so that nothing is put into the queue of all lanes.
        let queue = consumer
            .split_partition_queue(topic, i32::from(lane))
            .ok_or_else(|| failed(KafkaError::Canceled))?;
        let held = lanes.held(lane);
        let number = held.begin();
        let from = place(topic, lane, from).map_err(failed)?;
        consumer.incremental_assign(&from).map_err(failed)?;
        Ok(Self {
            server: Arc::clone(&lanes.server),
            consumer: Arc::clone(consumer),
            queue,
            topic: topic.clone(),
            lane,
            held,
            number,
            pending_max: lanes.pending_max,
            commit_at: Instant::now() + COMMIT_EVERY,
            stopping: false,
        })
    }

    fn has_room(&self) -> bool {
        !self.stopping && self.held.room(self.pending_max) > 0
    }

    /// Tells the group how far it is.
    fn commit(&mut self) {
        self.commit_at = Instant::now() + COMMIT_EVERY;
        tell(&self.consumer, &self.topic, self.lane, &self.held);
    }

    fn message(&self, read: &BorrowedMessage<'_>) -> Message<Token> {
        let token = Token { reader: self.number, offset: read.offset() };
        self.held.add(token);
        let place = u64::try_from(token.offset).unwrap_or_default();
        Message { place, token, delivery: message::decode(read) }
    }

    fn taken(&self, read: Result<BorrowedMessage<'_>, KafkaError>) -> Result<Message<Token>> {
        read.map(|read| self.message(&read)).map_err(|error| unreadable(&self.server, error))
    }
}

/// How far the group is in a lane.
async fn committed(lanes: &KafkaLanes, lane: u16) -> Result<Offset> {
    let (consumer, topic) = (Arc::clone(&lanes.consumer), lanes.layout.stream.clone());
    let timeout = lanes.server.timeout();
    let asked = aside(move || {
        let found = consumer.committed_offsets(place(&topic, lane, Offset::Invalid)?, timeout)?;
        let (_, end) = consumer.fetch_watermarks(&topic, i32::from(lane), timeout)?;
        Ok((found.elements().first().map(|place| place.offset()), end))
    });
    match asked.await?.map_err(|error| unreadable(&lanes.server, error))? {
        (Some(Offset::Offset(offset)), end) if offset <= end => Ok(Offset::Offset(offset)),
        // The group has none, or that of another topic which had this name before.
        _ => Ok(Offset::Beginning),
    }
}

impl LaneReader for KafkaReader {
    type Token = Token;

    async fn next(&mut self) -> Result<Message<Token>> {
        loop {
            if self.commit_at <= Instant::now() {
                self.commit();
            }
            let is_due = self.held.due().is_some();
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(self.commit_at), if is_due => {}
                read = self.queue.recv(), if self.has_room() => return self.taken(read),
                // There may be room again, and something to tell the group.
                () = self.held.changed() => {}
            }
        }
    }

    fn ready(&mut self) -> Option<Result<Message<Token>>> {
        if !self.has_room() {
            return None;
        }
        let read = self.queue.recv().now_or_never()?;
        Some(self.taken(read))
    }

    /// What the client has read ahead is not held by anybody.
    fn stop(&mut self) -> bool {
        self.stopping = true;
        true
    }
}

/// The lane is read no more. What is done of it is told the group when it is handed back.
impl Drop for KafkaReader {
    fn drop(&mut self) {
        let ended = place(&self.topic, self.lane, Offset::Invalid)
            .and_then(|place| self.consumer.incremental_unassign(&place));
        if let Err(error) = ended {
            tracing::debug!(%error, lane = self.lane, "a lane that was not read is left");
        }
    }
}

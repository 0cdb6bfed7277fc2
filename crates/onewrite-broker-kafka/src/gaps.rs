//! Announcements of gaps over a topic beside the stream's.
//!
//! Kafka has nothing that is said and not stored, so the topic keeps what is said for a minute, and who
//! listens begins at its end. Whoever waits says it again.

use std::{ops::Deref, sync::Arc};

use onewrite_core::Result;
use onewrite_lanes::Announced;
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{Consumer as _, StreamConsumer},
};
use tokio::task::JoinHandle;

use crate::{
    connect::{Aside, Server, Talk, drop_aside},
    stream::Layout,
};

/// The partition of the topic that is used.
pub(crate) const PARTITION: i32 = 0;

/// The topic on which receivers of `stream` announce what they wait for.
#[must_use]
pub fn gap_topic(stream: &str) -> String {
    format!("{stream}.gaps")
}

/// Listens to announcements until it is dropped.
pub(crate) struct Gaps {
    announced: Arc<Announced>,
    listener: Option<(JoinHandle<()>, Arc<StreamConsumer<Talk>>)>,
}

impl Drop for Gaps {
    fn drop(&mut self) {
        let Some((listener, consumer)) = self.listener.take() else { return };
        listener.abort();
        drop_aside(consumer);
    }
}

impl Deref for Gaps {
    type Target = Announced;

    fn deref(&self) -> &Announced {
        &self.announced
    }
}

impl Gaps {
    /// Listens to the announcements for a topic, if there is one for them.
    ///
    /// # Errors
    /// For settings that the client does not take.
    pub(crate) fn listen(server: &Server, layout: &Layout) -> Result<Self> {
        let announced = Arc::<Announced>::default();
        if !layout.has_gaps {
            return Ok(Self { announced, listener: None });
        }
        let failed = |error| server.failed("does not let announcements be heard", error);
        let mut config = server.config();
        // Named because the client wants a name: nothing is noted under it.
        config.set("group.id", "onewrite-gaps").set("enable.auto.commit", "false");
        config.set("auto.offset.reset", "latest").set("fetch.wait.max.ms", "1000");
        let consumer: StreamConsumer<Talk> =
            config.create_with_context(Talk::default()).map_err(failed)?;
        let mut place = TopicPartitionList::new();
        let topic = gap_topic(&layout.stream);
        place.add_partition_offset(&topic, PARTITION, Offset::End).map_err(failed)?;
        consumer.assign(&place).map_err(failed)?;
        let consumer = Arc::new(consumer);
        let (heard, noted) = (Aside::new(&consumer), Arc::clone(&announced));
        let listener = tokio::spawn(async move {
            while let Some(heard) = heard.get() {
                match heard.recv().await {
                    Ok(message) => noted.note(message.payload().unwrap_or_default()),
                    // The client goes on by itself.
                    Err(error) => {
                        tracing::debug!(%error, topic, "announcements are not heard now");
                    }
                }
            }
        });
        Ok(Self { announced, listener: Some((listener, consumer)) })
    }
}

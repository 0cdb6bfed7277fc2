//! The lanes of a stream as RabbitMQ has them: a queue for each, and for each receiver.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use lapin::{BasicProperties, options::BasicPublishOptions};
use onewrite_core::{Result, Text};
use onewrite_lanes::{Announcement, Answer, Lanes};

use crate::{
    StreamOptions,
    channel::{LaneChannel, ReadChannel},
    connect::Server,
    gaps::gap_exchange,
    reader::{RabbitReader, Token},
    stream::{self, Layout},
};

/// What is kept of a lane from reader to reader.
#[derive(Default)]
pub(crate) struct Known {
    channel: Mutex<Option<Arc<LaneChannel>>>,
    places: Arc<AtomicU64>,
}

impl Known {
    /// A panic while the lock was held leaves nothing half done here.
    fn channel(&self) -> MutexGuard<'_, Option<Arc<LaneChannel>>> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lanes of a stream for one receiver.
pub(crate) struct RabbitLanes {
    /// Through which is consumed.
    pub(crate) server: Server,
    /// Through which is announced.
    pub(crate) announcer: Server,
    pub(crate) options: StreamOptions,
    pub(crate) layout: Layout,
    pub(crate) consumer: Text,
    pub(crate) pending_max: u16,
    pub(crate) known: Vec<Known>,
}

impl RabbitLanes {
    async fn within<T>(&self, answering: impl Future<Output = T>) {
        if tokio::time::timeout(self.server.timeout(), answering).await.is_err() {
            tracing::debug!("the RabbitMQ server takes no answers; messages come again");
        }
    }

    /// Ends the channel of a lane: what is not acknowledged goes back.
    async fn give_back(&self, lane: u16) {
        let kept = self.known.get(usize::from(lane)).and_then(|known| known.channel().take());
        if let Some(channel) = kept {
            self.within(channel.close()).await;
        }
    }
}

impl Lanes for RabbitLanes {
    type Token = Token;
    type Reader = RabbitReader;

    async fn open(&self, lane: u16) -> Result<RabbitReader> {
        // The messages of an earlier reader, which failed, are not wanted twice at once.
        self.give_back(lane).await;
        // It may have been removed meanwhile, by hand or with the server's data.
        stream::open(&self.server, &self.options).await?;
        stream::create_queue(&self.server, &self.layout, &self.consumer, lane).await?;
        let channel = Arc::new(LaneChannel::new(self.server.channel().await?));
        let mut places = Arc::default();
        if let Some(known) = self.known.get(usize::from(lane)) {
            *known.channel() = Some(Arc::clone(&channel));
            places = Arc::clone(&known.places);
        }
        let channel = ReadChannel::new(channel);
        let consuming = channel.consume(self.layout.queue(&self.consumer, lane), self.pending_max);
        let consumer = self.server.bounded("does not let a lane be read", consuming).await?;
        Ok(RabbitReader { channel, consumer, places, stopping: false })
    }

    async fn answer(&self, lane: u16, answer: Answer, tokens: Vec<Token>) {
        match answer {
            Answer::Done | Answer::GiveUp => {
                // A message that came again has a token of each of its channels.
                let mut rest = tokens;
                while let Some(channel) = rest.first().map(|token| Arc::clone(&token.channel)) {
                    let of_channel = |token: &mut Token| Arc::ptr_eq(&token.channel, &channel);
                    let tags = rest.extract_if(.., of_channel).map(|token| token.tag).collect();
                    self.within(channel.acknowledge(tags)).await;
                }
            }
            // The server waits without a limit of ours, and its own (`consumer_timeout`) cannot be renewed.
            Answer::InWork => {}
            Answer::Back => self.give_back(lane).await,
        }
    }

    async fn announce(&self, said: &Announcement) {
        let Ok(payload) = serde_json::to_vec(said) else { return };
        let announcing = async {
            let channel = self.announcer.channel().await?;
            let exchange = gap_exchange(&self.layout.stream);
            let (options, properties) =
                (BasicPublishOptions::default(), BasicProperties::default());
            let publishing =
                channel.basic_publish(exchange.into(), "".into(), options, &payload, properties);
            self.announcer.bounded("takes no announcement", publishing).await?;
            // Closed in order: what was said before has arrived then.
            self.announcer.bounded("takes no announcement", channel.close(200, "OK".into())).await
        };
        self.within(async {
            if let Err(error) = announcing.await {
                tracing::debug!(%error, "an announcement was not heard; it is said again");
            }
        })
        .await;
    }
}

/// How long the server may take to deliver again what a process held that died: two heartbeats without a
/// word, and as much again for a server that is busy.
pub(crate) fn redelivered_within(options: &StreamOptions) -> Duration {
    options.heartbeat * 4
}

//! The lanes of a stream as NATS has them: a durable consumer for each.

use std::time::Duration;

use async_nats::{
    Client, Subject,
    jetstream::{
        self, AckKind, Context,
        consumer::{AckPolicy, DeliverPolicy, pull},
        stream::ConsumerErrorKind,
    },
};
use bytes::Bytes;
use onewrite_core::{Code, Error, Result, Text};
use onewrite_lanes::{Announcement, Answer, LaneReader, Lanes, Message};

use crate::{gaps::gap_subject, message, pull::Pull, stream::Layout};

/// The lanes of a stream for one consumer. A message's token is the subject on which it is answered.
pub(crate) struct NatsLanes {
    pub(crate) client: Client,
    pub(crate) context: Context,
    pub(crate) layout: Layout,
    pub(crate) consumer: Text,
    pub(crate) ack_wait: Duration,
    pub(crate) pending_max: usize,
    pub(crate) timeout: Duration,
}

impl NatsLanes {
    fn consumer_name(&self, lane: u16) -> String {
        format!("{}-{lane}", self.consumer)
    }

    /// Creates the consumer of a lane, or finds it.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] when the server refuses it, [`Code::SinkUnreachable`].
    pub(crate) async fn create_consumer(&self, lane: u16) -> Result<()> {
        let name = self.consumer_name(lane);
        let config = pull::Config {
            durable_name: Some(name.clone()),
            description: Some(format!("onewrite lane {lane} of {}", self.layout.lanes)),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.ack_wait,
            filter_subject: self.layout.lane_subjects(lane),
            max_ack_pending: i64::try_from(self.pending_max).unwrap_or(i64::MAX),
            ..pull::Config::default()
        };
        let stream = self.layout.stream.to_string();
        self.context.create_consumer_on_stream(config, stream).await.map(drop).map_err(|error| {
            let code = match error.kind() {
                ConsumerErrorKind::TimedOut | ConsumerErrorKind::Request => Code::SinkUnreachable,
                _ => Code::InvalidConfig,
            };
            let stream = &self.layout.stream;
            let context =
                format!("consumer `{name}` of stream `{stream}` cannot be created or changed");
            Error::new(code, context).with_source(error)
        })
    }

    /// What does not get through in time is delivered again.
    async fn publish_all(&self, replies: Vec<Subject>, payload: &Bytes) {
        let sending = async {
            for reply in replies {
                if self.client.publish(reply, payload.clone()).await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(self.timeout, sending).await.is_err() {
            tracing::debug!("answers to the NATS server wait for a connection; it delivers again");
        }
    }
}

impl Lanes for NatsLanes {
    type Token = Subject;
    type Reader = NatsReader;

    async fn open(&self, lane: u16) -> Result<NatsReader> {
        self.create_consumer(lane).await?;
        let consumer = self.consumer_name(lane);
        let pull =
            Pull::open(&self.context, &self.layout.stream, &consumer, self.pending_max).await?;
        Ok(NatsReader { lane, pull })
    }

    async fn answer(&self, _: u16, answer: Answer, replies: Vec<Subject>) {
        let kind = match answer {
            Answer::Done => AckKind::Ack,
            Answer::GiveUp => AckKind::Term,
            Answer::InWork => AckKind::Progress,
            Answer::Back => AckKind::Nak(None),
        };
        self.publish_all(replies, &Bytes::from(kind)).await;
        if answer == Answer::Back {
            let _ = tokio::time::timeout(self.timeout, self.client.flush()).await;
        }
    }

    async fn announce(&self, said: &Announcement) {
        let Ok(payload) = serde_json::to_vec(said) else { return };
        let saying = self.client.publish(gap_subject(&self.layout.stream), payload.into());
        // Said again later in any case.
        let _ = tokio::time::timeout(self.timeout, saying).await;
    }
}

/// Reads the consumer of one lane.
pub(crate) struct NatsReader {
    lane: u16,
    pull: Pull,
}

impl NatsReader {
    /// The message as its lane takes it in; `None` for what has no place in the stream.
    fn read(&self, message: &jetstream::Message) -> Option<Message<Subject>> {
        let token = message.reply.clone()?;
        let Ok(info) = message.info() else {
            tracing::warn!(lane = self.lane, "a message without its place in the stream is left");
            return None;
        };
        let (place, delivered) = (info.stream_sequence, info.delivered);
        let delivery = message::decode(message.headers.as_ref(), message.payload.clone());
        if delivered > 1 && delivery.is_ok() {
            tracing::debug!(
                lane = self.lane,
                stream_sequence = place,
                delivered,
                "delivered again"
            );
        }
        Some(Message { place, token, delivery })
    }
}

impl LaneReader for NatsReader {
    type Token = Subject;

    async fn next(&mut self) -> Result<Message<Subject>> {
        loop {
            let message = self.pull.next().await?;
            if let Some(message) = self.read(&message) {
                return Ok(message);
            }
        }
    }

    fn ready(&mut self) -> Option<Result<Message<Subject>>> {
        loop {
            let read = self.pull.ready()?.map(|message| self.read(&message)).transpose();
            if read.is_some() {
                return read;
            }
        }
    }

    fn stop(&mut self) -> bool {
        self.pull.stop();
        self.pull.is_over()
    }
}

//! ReadChannel one lane: the server delivers by itself, as many messages as may be held.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures::{FutureExt as _, StreamExt as _};
use lapin::{Consumer, message::Delivery, types::ShortString};
use onewrite_core::{Code, Error, Result};
use onewrite_lanes::{LaneReader, Message};

use crate::{
    channel::{LaneChannel, ReadChannel},
    message,
};

/// How often a message may come before somebody is told.
const DELIVERIES_TOLD: i64 = 5;

/// How a message is answered for.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) channel: Arc<LaneChannel>,
    pub(crate) tag: u64,
}

/// Reads one lane.
pub(crate) struct RabbitReader {
    pub(crate) channel: ReadChannel,
    pub(crate) consumer: Consumer,
    /// Counts what came in this lane: the server numbers nothing beyond a channel.
    pub(crate) places: Arc<AtomicU64>,
    pub(crate) stopping: bool,
}

impl RabbitReader {
    fn take(&self, came: Option<lapin::Result<Delivery>>) -> Result<Message<Token>> {
        let context = || format!("the queue `{}` is not read any more", self.consumer.queue());
        let came = match came {
            Some(Ok(came)) => came,
            Some(Err(error)) => {
                return Err(Error::new(Code::SinkUnreachable, context()).with_source(error));
            }
            None => return Err(Error::new(Code::SinkUnreachable, context())),
        };
        self.channel.came(came.delivery_tag);
        let token = Token { channel: self.channel.shared(), tag: came.delivery_tag };
        let place = self.places.fetch_add(1, Ordering::Relaxed);
        let deliveries = message::deliveries(&came.properties);
        if deliveries >= DELIVERIES_TOLD {
            tracing::warn!(
                queue = self.consumer.queue().as_str(),
                deliveries,
                id = came.properties.message_id().as_ref().map(ShortString::as_str),
                "a message comes again and again and is never settled: what handles it may end its process"
            );
        }
        let delivery = message::decode(&came.properties, came.data.into());
        Ok(Message { place, token, delivery })
    }
}

impl LaneReader for RabbitReader {
    type Token = Token;

    async fn next(&mut self) -> Result<Message<Token>> {
        if self.stopping {
            std::future::pending::<()>().await;
        }
        let came = self.consumer.next().await;
        self.take(came)
    }

    fn ready(&mut self) -> Option<Result<Message<Token>>> {
        if self.stopping {
            return None;
        }
        let came = self.consumer.next().now_or_never()?;
        Some(self.take(came))
    }

    /// What is on its way goes back with the channel.
    fn stop(&mut self) -> bool {
        self.stopping = true;
        true
    }
}

//! Announcements of gaps over a channel of Redis.
//!
//! A channel is beside the keys: nobody stores what is said there, and whoever waits says it again.

use std::{ops::Deref, sync::Arc, time::Duration};

use futures::StreamExt as _;
use onewrite_core::Result;
use onewrite_lanes::Announced;
use redis::aio::PubSub;
use tokio::task::JoinHandle;

use crate::connect::Server;

/// How often a silent connection is asked whether it is still there.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The pause between two attempts to listen again.
const LISTEN_AGAIN: Duration = Duration::from_millis(500);

/// The channel on which receivers of `stream` announce what they wait for.
#[must_use]
pub fn gap_channel(stream: &str) -> String {
    format!("onewrite:gap:{stream}")
}

/// Listens to announcements until it is dropped.
pub(crate) struct Gaps {
    announced: Arc<Announced>,
    listener: JoinHandle<()>,
}

impl Drop for Gaps {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// What was announced. A generation goes with each record of a lane: the server may still remember what it
/// has lost as appended, and would take what is sent again for a repeat.
impl Deref for Gaps {
    type Target = Announced;

    fn deref(&self) -> &Announced {
        &self.announced
    }
}

impl Gaps {
    /// Subscribes to the announcements for `stream`.
    ///
    /// # Errors
    /// As [`Server::connect`].
    pub(crate) async fn listen(server: Arc<Server>, stream: &str) -> Result<Self> {
        let channel = gap_channel(stream);
        let mut subscriber = server.subscribe(&channel).await?;
        let announced = Arc::<Announced>::default();
        let noted = Arc::clone(&announced);
        let listener = tokio::spawn(async move {
            loop {
                hear(subscriber, &noted, server.timeout()).await;
                tracing::debug!(channel, "announcements are not heard now");
                subscriber = loop {
                    tokio::time::sleep(LISTEN_AGAIN).await;
                    if let Ok(subscriber) = server.subscribe(&channel).await {
                        break subscriber;
                    }
                };
            }
        });
        Ok(Self { announced, listener })
    }
}

/// Notes what is announced until the connection ends.
async fn hear(subscriber: PubSub, noted: &Announced, timeout: Duration) {
    let (mut questions, mut messages) = subscriber.split();
    loop {
        match tokio::time::timeout(LOOK_EVERY, messages.next()).await {
            Ok(Some(message)) => noted.note(message.get_payload_bytes()),
            Ok(None) => return,
            Err(_) => {
                let answer = tokio::time::timeout(timeout, questions.ping::<redis::Value>()).await;
                if !matches!(answer, Ok(Ok(_))) {
                    return;
                }
            }
        }
    }
}

//! Announcements of gaps over NATS.
//!
//! A plain message on a subject of its own, outside the stream: nobody stores it, and whoever waits says
//! it again.

use std::{ops::Deref, sync::Arc};

use async_nats::Client;
use futures::StreamExt as _;
use onewrite_core::{Code, Error, Result};
use onewrite_lanes::Announced;
use tokio::task::JoinHandle;

/// The subject on which receivers of `stream` announce what they wait for.
#[must_use]
pub fn gap_subject(stream: &str) -> String {
    format!("onewrite.gap.{stream}")
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

/// What was announced. A generation is part of the message ids: the server may still remember ids of
/// messages that it lost, and would drop what is sent again.
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
    /// [`Code::SinkUnreachable`].
    pub(crate) async fn listen(client: &Client, stream: &str) -> Result<Self> {
        let subject = gap_subject(stream);
        let mut messages = client.subscribe(subject.clone()).await.map_err(|error| {
            let context = format!("the subject `{subject}` cannot be subscribed to");
            Error::new(Code::SinkUnreachable, context).with_source(error)
        })?;
        let announced = Arc::<Announced>::default();
        let noted = Arc::clone(&announced);
        let listener = tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                noted.note(&message.payload);
            }
        });
        Ok(Self { announced, listener })
    }
}

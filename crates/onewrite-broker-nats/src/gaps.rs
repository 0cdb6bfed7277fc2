//! Announcements of gaps over NATS.
//!
//! A plain message on a subject of its own, outside the stream: nobody stores it, and whoever waits says
//! it again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_nats::Client;
use futures::StreamExt as _;
use onewrite_core::{Code, Error, Incarnation, Partition, Result, Sequence, inbox::Lane};
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
    /// The generation of each lane's message ids.
    generations: Mutex<HashMap<Lane, u64>>,
    listener: JoinHandle<()>,
}

impl Drop for Gaps {
    fn drop(&mut self) {
        self.listener.abort();
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
        Ok(Self { announced, generations: Mutex::default(), listener })
    }

    /// Takes what was announced for one life of `source`. The ids of those lanes change: the server may
    /// still remember ids of messages that it lost, and would drop what is sent again.
    pub(crate) fn take(&self, source: &str, life: Incarnation) -> Vec<(Partition, Sequence)> {
        let taken = self.announced.take(source, life);
        let mut generations = self.lock_generations();
        for (partition, _) in &taken {
            let (source, partition) = (source.into(), *partition);
            generations.insert(Lane { source, incarnation: life, partition }, rand::random());
        }
        taken
    }

    /// The generation of message ids of each lane that has one.
    pub(crate) fn generations(&self) -> HashMap<Lane, u64> {
        self.lock_generations().clone()
    }

    /// A panic while the lock was held leaves nothing half done here.
    fn lock_generations(&self) -> MutexGuard<'_, HashMap<Lane, u64>> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

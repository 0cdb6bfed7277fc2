//! How a receiver tells a relay, past the broker, that it waits for something that does not come.
//!
//! A plain NATS message on a subject of its own, outside the stream: nobody stores it, and whoever
//! waits says it again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_nats::Client;
use futures::StreamExt as _;
use onewrite_core::{Code, Error, Incarnation, Partition, Result, Sequence, inbox::Lane};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

/// Announcements kept at most: those of other sources on the same stream are not taken away.
const NOTED_MAX: usize = 100_000;

/// The subject on which receivers of `stream` announce what they wait for.
#[must_use]
pub fn gap_subject(stream: &str) -> String {
    format!("onewrite.gap.{stream}")
}

/// What a receiver waits for, as JSON on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The source.
    pub source: String,
    /// Its life, 16 hexadecimal digits.
    pub incarnation: String,
    /// The partition.
    pub partition: Partition,
    /// The last sequence the receiver has there: it waits for what follows.
    pub have: Sequence,
}

impl Announcement {
    pub(crate) fn new(lane: &Lane, have: Sequence) -> Self {
        Self {
            source: lane.source.to_string(),
            incarnation: lane.incarnation.to_string(),
            partition: lane.partition,
            have,
        }
    }

    fn lane(&self) -> Result<Lane> {
        Ok(Lane {
            source: self.source.as_str().into(),
            incarnation: self.incarnation.parse()?,
            partition: self.partition,
        })
    }
}

/// What was announced and not taken yet, and the generation of each lane's message ids.
#[derive(Debug, Default)]
struct Noted {
    waiting: HashMap<Lane, Sequence>,
    generations: HashMap<Lane, u64>,
}

/// Listens to announcements until it is dropped.
pub(crate) struct Gaps {
    noted: Arc<Mutex<Noted>>,
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
        let mut announced = client.subscribe(subject.clone()).await.map_err(|error| {
            let context = format!("the subject `{subject}` cannot be subscribed to");
            Error::new(Code::SinkUnreachable, context).with_source(error)
        })?;
        let noted = Arc::<Mutex<Noted>>::default();
        let shared = Arc::clone(&noted);
        let listener = tokio::spawn(async move {
            while let Some(message) = announced.next().await {
                note(&mut lock(&shared), &message.payload);
            }
        });
        Ok(Self { noted, listener })
    }

    /// Takes what was announced for one life of `source`. The ids of those lanes change: the server may
    /// still remember ids of messages that it lost, and would drop what is sent again.
    pub(crate) fn take(&self, source: &str, life: Incarnation) -> Vec<(Partition, Sequence)> {
        let mut noted = lock(&self.noted);
        if noted.waiting.is_empty() {
            return Vec::new();
        }
        let wanted = |lane: &Lane| *lane.source == *source && lane.incarnation == life;
        let lanes: Vec<Lane> = noted.waiting.keys().filter(|lane| wanted(lane)).cloned().collect();
        let mut taken = Vec::with_capacity(lanes.len());
        for lane in lanes {
            if let Some(have) = noted.waiting.remove(&lane) {
                taken.push((lane.partition, have));
                noted.generations.insert(lane, rand::random());
            }
        }
        taken
    }

    /// The generation of message ids of each lane that has one.
    pub(crate) fn generations(&self) -> HashMap<Lane, u64> {
        lock(&self.noted).generations.clone()
    }
}

fn note(noted: &mut Noted, payload: &[u8]) {
    let read = serde_json::from_slice::<Announcement>(payload).ok();
    let Some((lane, have)) = read.and_then(|said| Some((said.lane().ok()?, said.have))) else {
        tracing::warn!("an announcement of a gap cannot be read");
        return;
    };
    if noted.waiting.len() < NOTED_MAX || noted.waiting.contains_key(&lane) {
        noted.waiting.insert(lane, have);
    }
}

/// A panic while the lock was held leaves nothing half done here.
fn lock(noted: &Mutex<Noted>) -> MutexGuard<'_, Noted> {
    noted.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_announcement_of_a_lane_counts() {
        let lane = Lane { source: "shop".into(), incarnation: Incarnation(7), partition: 3 };
        let mut noted = Noted::default();
        for have in [4, 6] {
            note(&mut noted, &serde_json::to_vec(&Announcement::new(&lane, have)).unwrap());
        }
        note(&mut noted, b"nonsense");
        assert_eq!(noted.waiting, HashMap::from([(lane, 6)]));
    }
}

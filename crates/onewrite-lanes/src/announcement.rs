//! How a receiver tells a relay, past the broker, that it waits for something that does not come.
//!
//! Nobody stores an announcement: whoever waits says it again.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use onewrite_core::{Incarnation, Partition, Result, Sequence, inbox::Lane};
use serde::{Deserialize, Serialize};

/// Announcements kept at most: those of other sources on the same stream are not taken away.
const ANNOUNCED_MAX: usize = 100_000;

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

/// What receivers announced and the sender has not taken yet.
#[derive(Debug, Default)]
pub struct Announced {
    waiting: Mutex<HashMap<Lane, Sequence>>,
    generations: Mutex<HashMap<Lane, u64>>,
}

impl Announced {
    /// Notes an announcement as it came over the wire. The latest of a lane counts.
    pub fn note(&self, payload: &[u8]) {
        let read = serde_json::from_slice::<Announcement>(payload).ok();
        let Some((lane, have)) = read.and_then(|said| Some((said.lane().ok()?, said.have))) else {
            tracing::warn!("an announcement of a gap cannot be read");
            return;
        };
        let mut waiting = locked(&self.waiting);
        if waiting.len() < ANNOUNCED_MAX || waiting.contains_key(&lane) {
            waiting.insert(lane, have);
        }
    }

    /// Takes what was announced for one life of `source`: what [`Sink::gaps`] answers. A new generation
    /// of each of those lanes begins.
    ///
    /// [`Sink::gaps`]: onewrite_core::broker::Sink::gaps
    pub fn take(&self, source: &str, life: Incarnation) -> Vec<(Partition, Sequence)> {
        let wanted =
            |lane: &Lane, _: &mut Sequence| *lane.source == *source && lane.incarnation == life;
        let taken: Vec<_> = locked(&self.waiting).extract_if(wanted).collect();
        let mut generations = locked(&self.generations);
        let begin = |(lane, have): (Lane, Sequence)| {
            let partition = lane.partition;
            generations.insert(lane, rand::random());
            (partition, have)
        };
        taken.into_iter().map(begin).collect()
    }

    /// The generation of each lane that has one: a part of what the broker recognises repeats by. It may
    /// remember messages that it has lost, and would drop what is sent again.
    pub fn generations(&self) -> HashMap<Lane, u64> {
        locked(&self.generations).clone()
    }
}

/// A panic while the lock was held leaves nothing half done here.
fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_announcement_of_a_lane_counts() {
        let lane = Lane { source: "shop".into(), incarnation: Incarnation(7), partition: 3 };
        let announced = Announced::default();
        for have in [4, 6] {
            announced.note(&serde_json::to_vec(&Announcement::new(&lane, have)).unwrap());
        }
        announced.note(b"nonsense");
        assert!(announced.take("shop", Incarnation(8)).is_empty(), "another life");
        assert!(announced.take("mall", Incarnation(7)).is_empty(), "another source");
        assert_eq!(announced.take("shop", Incarnation(7)), [(3, 6)]);
        assert!(announced.take("shop", Incarnation(7)).is_empty(), "taken once");
    }

    #[test]
    fn what_is_sent_again_is_of_another_generation() {
        let lane = Lane { source: "shop".into(), incarnation: Incarnation(7), partition: 3 };
        let announced = Announced::default();
        let said = serde_json::to_vec(&Announcement::new(&lane, 4)).unwrap();
        announced.note(&said);
        assert!(announced.generations().is_empty(), "not before it is taken");
        let generation_after = || {
            announced.note(&said);
            announced.take("shop", Incarnation(7));
            announced.generations()[&lane]
        };
        assert_ne!(generation_after(), generation_after());
    }
}

//! A broker in memory that only keeps, for its consumer, how far each lane was read. Nothing can be
//! handed back to it, and nothing expires.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use onewrite_core::{BoxFuture, Code, Delivery, Error, Partition, Result, broker::Receipt};
use onewrite_lanes::{Announced, Announcement, Answer, LaneReader, Lanes, Message};
use tokio::sync::watch;

const NEVER: usize = usize::MAX;

#[derive(Default)]
struct Lane {
    /// `None` stands for what is no event.
    messages: Vec<Option<Delivery>>,
    /// Those done or given up, from the first that is neither.
    done: BTreeSet<usize>,
    read_upto: usize,
}

/// A stream of it.
#[derive(Clone)]
pub(crate) struct Log {
    lanes: Arc<[Mutex<Lane>]>,
    /// Changes with each message and each cut; counts the cuts.
    cuts: watch::Sender<u64>,
    answers: Arc<Mutex<Vec<(Answer, u64)>>>,
    /// Before which message the next reader breaks that comes there.
    breaks_at: Arc<AtomicUsize>,
    pub(crate) announced: Arc<Announced>,
}

impl Log {
    pub(crate) fn new(lanes: u16) -> Self {
        Self {
            lanes: (0..lanes).map(|_| Mutex::default()).collect(),
            cuts: watch::Sender::new(0),
            answers: Arc::default(),
            breaks_at: Arc::new(NEVER.into()),
            announced: Arc::default(),
        }
    }

    pub(crate) fn count(&self) -> u16 {
        u16::try_from(self.lanes.len()).unwrap()
    }

    fn lane(&self, lane: u16) -> MutexGuard<'_, Lane> {
        self.lanes[usize::from(lane)].lock().unwrap()
    }

    fn append(&self, partition: Partition, messages: impl Iterator<Item = Option<Delivery>>) {
        self.lane(partition % self.count()).messages.extend(messages);
        self.cuts.send_modify(|_| {});
    }

    pub(crate) fn send(&self, batch: &[Delivery]) {
        for of_one in batch.chunk_by(|one, other| self.is_of_one_lane(one, other)) {
            self.append(of_one[0].record.partition, of_one.iter().cloned().map(Some));
        }
    }

    fn is_of_one_lane(&self, one: &Delivery, other: &Delivery) -> bool {
        one.record.partition % self.count() == other.record.partition % self.count()
    }

    /// Sends what is no event.
    pub(crate) fn send_nonsense(&self, partition: Partition) {
        self.append(partition, std::iter::once(None));
    }

    /// Ends all connections.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Breaks one reader before this message: it says so once, and is silent then.
    pub(crate) fn break_at(&self, place: usize) {
        self.breaks_at.store(place, Ordering::Relaxed);
    }

    /// How far the consumer is in a lane.
    pub(crate) fn read_upto(&self, lane: u16) -> usize {
        self.lane(lane).read_upto
    }

    /// The messages that got this answer, in its order.
    pub(crate) fn answered(&self, wanted: Answer) -> Vec<u64> {
        let answers = self.answers.lock().unwrap();
        answers.iter().filter(|(answer, _)| *answer == wanted).map(|(_, place)| *place).collect()
    }
}

impl Lanes for Log {
    type Token = u64;
    type Reader = LogReader;

    async fn open(&self, lane: u16) -> Result<LogReader> {
        let (next, changes) = (self.read_upto(lane), self.cuts.subscribe());
        let cuts = *changes.borrow();
        Ok(LogReader { log: self.clone(), lane, next, changes, cuts, is_over: false })
    }

    async fn answer(&self, lane: u16, answer: Answer, places: Vec<u64>) {
        let mut lane = self.lane(lane);
        for place in places {
            self.answers.lock().unwrap().push((answer, place));
            if matches!(answer, Answer::Done | Answer::GiveUp) {
                lane.done.insert(usize::try_from(place).unwrap());
            }
        }
        while let Some(first) = lane.done.first().copied().filter(|first| *first <= lane.read_upto)
        {
            lane.done.remove(&first);
            lane.read_upto = lane.read_upto.max(first + 1);
        }
    }

    async fn announce(&self, said: &Announcement) {
        self.announced.note(&serde_json::to_vec(said).unwrap());
    }
}

fn cut() -> Error {
    Error::new(Code::SinkUnreachable, "the connection was cut")
}

/// Reads one lane from where the consumer is.
pub(crate) struct LogReader {
    log: Log,
    lane: u16,
    next: usize,
    changes: watch::Receiver<u64>,
    cuts: u64,
    is_over: bool,
}

impl LaneReader for LogReader {
    type Token = u64;

    async fn next(&mut self) -> Result<Message<u64>> {
        loop {
            if *self.changes.borrow_and_update() != self.cuts {
                return Err(cut());
            }
            match self.ready() {
                Some(message) => return message,
                None => self.changes.changed().await.expect("the reader has a sender itself"),
            }
        }
    }

    fn ready(&mut self) -> Option<Result<Message<u64>>> {
        if self.is_over {
            return None;
        }
        let breaks_at = &self.log.breaks_at;
        let swapped =
            breaks_at.compare_exchange(self.next, NEVER, Ordering::Relaxed, Ordering::Relaxed);
        if swapped.is_ok() {
            self.is_over = true;
            return Some(Err(cut()));
        }
        let message = self.log.lane(self.lane).messages.get(self.next).cloned()?;
        let place = u64::try_from(self.next).unwrap();
        self.next += 1;
        let delivery = message.ok_or_else(|| Error::new(Code::InvalidEvent, "nonsense"));
        Some(Ok(Message { place, token: place, delivery }))
    }

    fn stop(&mut self) -> bool {
        self.is_over = true;
        true
    }
}

impl onewrite_core::broker::Sink for Log {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        self.send(batch);
        Box::pin(std::future::ready(Ok(vec![Receipt::Accepted; batch.len()])))
    }
}

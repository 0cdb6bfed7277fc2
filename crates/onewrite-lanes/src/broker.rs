//! The contract of a broker whose stream falls into lanes: how a lane is read, and how the broker hears
//! what became of its messages.
//!
//! It does as little as brokers have in common: what is held, in which order it goes to the receiver, what
//! is tried again and who reads which lane is decided on this side of it. The smallest one is in the
//! tests of this crate: a log in memory.

use onewrite_core::{Delivery, Result};

use crate::announcement::Announcement;

/// What a broker hears about messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Settled: the consumer is done with it.
    Done,
    /// No event, whoever reads it: the consumer is done with it as well.
    GiveUp,
    /// Still held: it need not come again yet. A broker that waits without limit has nothing to do.
    InWork,
    /// Held no more: it goes to whoever reads the lane next, the sooner the better.
    Back,
}

/// A message of a lane.
#[derive(Debug)]
pub struct Message<T> {
    /// Where it stands in the lane.
    pub place: u64,
    /// How to answer for it.
    pub token: T,
    /// What it holds, or why that is no event.
    pub delivery: Result<Delivery>,
}

/// What a broker does for the lanes of one stream and one consumer.
///
/// 1. **all**: a lane that is opened brings, sooner or later, every message that was not answered with
///    [`Answer::Done`] or [`Answer::GiveUp`], whoever held it before. That something comes again is harmless.
/// 2. **order**: the messages of a partition come in the order in which they were sent, apart from those
///    that come again.
/// 3. **place**: places grow in that order, and no two messages that are held have the same one. A message
///    that comes again under its old place replaces its token; under another one it has two, and both are
///    answered. A broker that numbers nothing counts what comes, and goes on counting from reader to reader.
/// 4. **any order**: messages are answered in any order. A broker that only keeps how far its consumer is
///    moves that to the first message that is neither done nor given up, never past it.
/// 5. **room**: a lane brings no more messages than the consumer may hold, apart from those that come again,
///    until some are done or given up.
/// 6. **stale**: a token may be answered after its reader, its connection or its lease has ended. At worst
///    its message comes again.
/// 7. **bounded**: answering and announcing end in time without a broker too, and report nothing: what did
///    not get through is made good by a message that comes again, or by the next announcement.
/// 8. **handed back**: [`Answer::Back`] is the last that is said of a lane before another process may read
///    it, once and even of no message, and after its reader was dropped. It returns when everything said
///    before has arrived, as far as it will.
/// 9. **cancel**: dropping the future of [`Self::open`] breaks nothing.
pub trait Lanes: Send + Sync + 'static {
    /// How a message is answered for.
    type Token: Clone + Send + 'static;
    /// What reads a lane.
    type Reader: LaneReader<Token = Self::Token>;

    /// Begins to read a lane, and creates what the broker needs for it.
    ///
    /// # Errors
    /// Any, in [`LaneReader::next`] as well: the lane is opened again after a pause.
    fn open(&self, lane: u16) -> impl Future<Output = Result<Self::Reader>> + Send;

    /// Answers for messages of a lane.
    fn answer(
        &self,
        lane: u16,
        answer: Answer,
        tokens: Vec<Self::Token>,
    ) -> impl Future<Output = ()> + Send;

    /// Says past the lanes, to whoever sends to the stream, what its receiver waits for.
    fn announce(&self, said: &Announcement) -> impl Future<Output = ()> + Send;
}

/// What reads one lane, until it is dropped. What it brought stays held and can be answered.
///
/// 1. **cancel**: dropping the future of [`Self::next`] loses nothing.
/// 2. **stop**: once [`Self::stop`] says that nothing is on its way, nothing comes any more.
pub trait LaneReader: Send + 'static {
    /// How a message is answered for.
    type Token;

    /// The next message. It is awaited all the time, so here the reader asks for more, and looks after its
    /// connection.
    ///
    /// # Errors
    /// This reader is of no more use.
    fn next(&mut self) -> impl Future<Output = Result<Message<Self::Token>>> + Send;

    /// A message that is there already, without waiting.
    fn ready(&mut self) -> Option<Result<Message<Self::Token>>>;

    /// Asks for nothing more, and says whether nothing is on its way either. Called again and again until it
    /// is so; [`Self::next`] is awaited in between, and may then wait for ever.
    fn stop(&mut self) -> bool;
}

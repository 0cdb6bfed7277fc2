//! What one process holds of a lane: messages that were read and are not answered, and how far the lane
//! is done without a hole.
//!
//! Kafka keeps one number for a group and a partition: what is below it does not come again. So that
//! number is the first message that is read and not answered, whatever was answered behind it.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// How a message is answered for: its offset, and which reader brought it. Were the topic removed and made
/// anew, its offsets would begin anew as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) reader: u64,
    pub(crate) offset: i64,
}

/// The messages held of one lane.
#[derive(Debug, Default)]
pub(crate) struct Held {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Counts readers. What another one brought than the one that reads now comes again.
    reader: u64,
    open: BTreeSet<i64>,
    /// Behind the last message that was read.
    next: Option<i64>,
    /// What the group was told last.
    told: Option<i64>,
}

impl State {
    fn floor(&self) -> Option<i64> {
        self.open.first().copied().or(self.next)
    }
}

impl Held {
    /// Begins with a new reader, or with none: what is not answered comes again, and nothing that was
    /// brought before is committed any more.
    pub(crate) fn begin(&self) -> u64 {
        let mut state = self.state();
        *state = State { reader: state.reader + 1, ..State::default() };
        state.reader
    }

    /// Notes what was read.
    pub(crate) fn add(&self, token: Token) {
        let mut state = self.state();
        if state.reader == token.reader {
            if state.next.is_none() {
                // Where the group is already.
                state.told = Some(token.offset);
            }
            state.open.insert(token.offset);
            state.next = Some(token.offset + 1);
        }
    }

    /// Notes what is done, which makes room.
    pub(crate) fn remove(&self, tokens: &[Token]) {
        let mut state = self.state();
        let reader = state.reader;
        for token in tokens.iter().filter(|token| token.reader == reader) {
            state.open.remove(&token.offset);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// How many more may be held.
    pub(crate) fn room(&self, max: usize) -> usize {
        max.saturating_sub(self.state().open.len())
    }

    /// Returns when something was answered, perhaps a while ago.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What the group should be told, if it is not what it was told last.
    pub(crate) fn due(&self) -> Option<i64> {
        let state = self.state();
        let floor = state.floor();
        floor.filter(|_| floor != state.told)
    }

    /// What is done without a hole; `None` before anything was read.
    pub(crate) fn floor(&self) -> Option<i64> {
        self.state().floor()
    }

    /// Notes what the group was told.
    pub(crate) fn tell(&self, offset: i64) {
        self.state().told = Some(offset);
    }

    /// The group has not heard it: it is told again.
    pub(crate) fn not_heard(&self) {
        self.state().told = None;
        self.changed.notify_one();
    }

    /// A panic while the lock was held leaves nothing half done here.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(reader: u64, offsets: &[i64]) -> Vec<Token> {
        offsets.iter().map(|&offset| Token { reader, offset }).collect()
    }

    fn reading(offsets: &[i64]) -> (Held, u64) {
        let held = Held::default();
        let reader = held.begin();
        tokens(reader, offsets).into_iter().for_each(|token| held.add(token));
        (held, reader)
    }

    #[test]
    fn the_group_is_told_what_is_done_without_a_hole() {
        // Offsets have holes of their own: what was compacted, or the marks of transactions.
        let (held, reader) = reading(&[5, 6, 9]);
        assert_eq!((held.due(), held.room(4)), (None, 1));
        held.remove(&tokens(reader, &[6]));
        assert_eq!(held.due(), None, "not past the first");
        held.remove(&tokens(reader, &[5]));
        assert_eq!(held.due(), Some(9));
        held.tell(9);
        assert_eq!(held.due(), None);
        held.remove(&tokens(reader, &[9]));
        assert_eq!((held.due(), held.room(4)), (Some(10), 4));
    }

    #[test]
    fn what_another_reader_brought_is_not_answered_for() {
        let (held, reader) = reading(&[5, 6]);
        let next = held.begin();
        held.remove(&tokens(reader, &[5, 6]));
        assert_eq!(held.due(), None, "nothing was read since");
        held.add(Token { reader: next, offset: 5 });
        held.remove(&tokens(reader, &[5]));
        assert_eq!((held.due(), held.room(4)), (None, 3));
        held.add(Token { reader, offset: 6 });
        assert_eq!(held.room(4), 3, "an old reader brings nothing");
        held.remove(&tokens(next, &[5]));
        assert_eq!(held.due(), Some(6));
    }

    #[test]
    fn what_the_group_did_not_hear_is_said_again() {
        let (held, reader) = reading(&[5]);
        held.remove(&tokens(reader, &[5]));
        held.tell(6);
        held.not_heard();
        assert_eq!(held.due(), Some(6));
    }
}

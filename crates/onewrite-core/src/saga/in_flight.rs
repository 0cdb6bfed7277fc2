//! The attempts in flight here. Not facts: they are lost with this process.

use super::{Direction, Saga};

impl Saga {
    /// An attempt that was permitted is not made here, and has not begun.
    pub fn not_begun(&mut self, step: usize) {
        if let Some(attempt) = self.in_flight.get_mut(step) {
            *attempt = None;
        }
    }

    /// Takes the place of `before`, of which it is a copy that learnt more, or less: what was found not to have
    /// begun there meanwhile has not begun here.
    #[must_use]
    pub fn in_place_of(mut self, before: &Self) -> Self {
        for (own, known) in self.in_flight.iter_mut().zip(&before.in_flight) {
            if known.is_none() {
                *own = None;
            }
        }
        self
    }

    /// Whether an attempt of this kind still serves a purpose.
    #[must_use]
    pub fn wants(&self, step: usize, direction: Direction) -> bool {
        direction == self.direction() && self.is_runnable(step)
    }

    /// The attempts in flight here.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.iter().flatten().count()
    }
}

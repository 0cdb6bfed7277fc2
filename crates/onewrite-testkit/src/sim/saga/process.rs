//! The processes of the simulated world: awake, stalled, or at their end.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use onewrite_core::Text;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Awake,
    Stalled,
    Ended,
}

/// One process: what runs in it goes on only while it is awake.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) name: Text,
    pub(super) slot: usize,
    state: Mutex<(State, Vec<Waker>)>,
}

impl Process {
    pub(super) fn new(name: Text, slot: usize) -> Self {
        Self { name, slot, state: Mutex::new((State::Awake, Vec::new())) }
    }

    /// Stalls it, wakes it or ends it. There is no way back from its end.
    pub(super) fn become_(&self, to: State) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 != State::Ended {
            state.0 = to;
            state.1.drain(..).for_each(Waker::wake);
        }
    }

    fn poll_is(&self, wanted: State, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 == wanted {
            return Poll::Ready(());
        }
        state.1.push(cx.waker().clone());
        Poll::Pending
    }

    /// Waits while it is stalled; for ever once it has ended.
    pub(super) async fn awake(&self) {
        poll_fn(|cx| self.poll_is(State::Awake, cx)).await;
    }

    pub(super) async fn ended(&self) {
        poll_fn(|cx| self.poll_is(State::Ended, cx)).await;
    }

    /// Runs something in it.
    pub(super) async fn run(&self, what: impl Future<Output = ()>) {
        let mut what = pin!(what);
        poll_fn(|cx| match self.poll_is(State::Awake, cx) {
            Poll::Ready(()) => what.as_mut().poll(cx),
            Poll::Pending => Poll::Pending,
        })
        .await;
    }
}

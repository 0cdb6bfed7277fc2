//! Making one attempt in a transaction of the store, which journals it as well.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
};

use futures::FutureExt as _;
use onewrite_core::{
    Code, Error, Result,
    lease::Fence,
    saga::{Call, Direction, Ended, Input, Json, Saga, Transacted, Transactional},
    store::{Item, Op, Outcome},
};

use super::{attempt::shortened, beside::beside, leases::Clock};

/// A transaction that has ended.
#[derive(Debug)]
pub(super) struct Transaction {
    /// The lease it was made under.
    pub(super) fence: Fence,
    /// What became of it.
    pub(super) result: Result<Transacted>,
    /// The saga as it is once the transaction is committed.
    pub(super) next: Option<Saga>,
}

impl Transaction {
    /// Whether its effect and its journal row are there.
    pub(super) fn is_committed(&self) -> bool {
        matches!(self.result, Ok(Transacted::Written(Outcome::Applied(_))))
    }
}

/// What a transaction starts from. Nothing else is journaled of the saga until it has ended.
pub(super) struct Basis {
    pub(super) saga: Saga,
    pub(super) step: usize,
    pub(super) direction: Direction,
    pub(super) clock: Clock,
    pub(super) fence: Fence,
    /// Whether others are told.
    pub(super) publish: bool,
}

impl Basis {
    /// The saga once the attempt has answered, and the item that says so.
    fn after(&self, output: Json, number: u32) -> Result<(Saga, Item)> {
        let (mut saga, time) = (self.saga.clone(), self.clock.now());
        let (step, direction, how) = (self.step, self.direction, Ended::Done(output));
        let ended = Input::Ended { step, direction, number, how, jitter: 0.0 };
        let entries = saga.decide(time, ended)?;
        if entries.is_empty() {
            return Err(Error::new(
                Code::SagaConflict,
                "nothing follows from the attempt any more",
            ));
        }
        let next = saga.next_transition(self.fence.partition, time, &entries)?;
        let mut ops = beside(&saga, &entries, self.publish)?;
        ops.push(Op::AdvanceSaga(Arc::new(next)));
        Ok((saga, Item { fence: Some(self.fence.clone()), ops }))
    }
}

/// Makes the attempt. It has ended when the transaction has, also behind its deadline.
pub(super) async fn make(
    participant: Arc<dyn Transactional>,
    call: Call,
    basis: Basis,
) -> Transaction {
    let next = Arc::new(Mutex::new(None));
    let (fence, slot, number) = (basis.fence.clone(), Arc::clone(&next), call.attempt);
    let journal = Arc::new(move |output: Json| {
        let (saga, item) = basis.after(output, number)?;
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(saga);
        Ok(item)
    });
    let acting = AssertUnwindSafe(async move { participant.act(call, journal).await });
    let result = match acting.catch_unwind().await {
        Ok(Ok(Transacted::Ended(ended))) => Ok(Transacted::Ended(shortened(ended))),
        Ok(result) => result,
        Err(_) => Err(Error::new(Code::CommitUnknown, "the transaction of a step panicked")),
    };
    let next = next.lock().unwrap_or_else(PoisonError::into_inner).take();
    Transaction { fence, result, next }
}

//! Attempts in transactions of the store: while one is under way, it is the saga's transition.

use std::sync::Arc;

use onewrite_core::{
    Code,
    error::Certainty,
    lease::{Epoch, Fence},
    saga::{Ended, SagaId, Transacted, Transactional},
    store::{Item, Outcome},
};

use super::{
    Driver, Turn,
    facts::{call, report},
};
use crate::saga::{
    attempt::How,
    transaction::{self, Basis, Transaction},
    write::{Of, Write},
};

impl Driver {
    /// Begins the transaction. Where something else of the saga is on its way it leaves its turn to others, and
    /// comes again behind that.
    pub(super) fn transact(&mut self, turn: Turn, one: Arc<dyn Transactional>, fence: Fence) {
        let (id, step, direction) = (turn.attempt.saga, turn.attempt.step, turn.attempt.direction);
        let gate = turn.gate;
        let Some(live) = self.live.get_mut(&id).filter(|live| live.epoch == turn.epoch) else {
            return self.gates.leave(gate);
        };
        if live.busy || self.leaving.contains_key(&live.partition) {
            live.saga.not_begun(step);
            return self.gates.leave(gate);
        }
        let (reports, of) = (self.reports.clone(), report(&turn));
        let name = live.saga.checked().name(step);
        let call = match call(turn, name) {
            Ok(call) => call,
            Err(ended) => {
                let _ = reports.send(of(How::NotAsked(ended)));
                return;
            }
        };
        (live.busy, live.settles) = (true, true);
        let (saga, clock, publish) = (live.saga.clone(), self.clock, self.options.publish);
        let basis = Basis { saga, step, direction, clock, fence, publish };
        tokio::spawn(async move {
            let transaction = transaction::make(one, call, basis).await;
            // Without a driver nobody wants to know.
            let _ = reports.send(of(How::Transaction(Box::new(transaction))));
        });
    }

    /// A transaction has ended: what is left to be journaled, if anything is.
    pub(super) fn transacted(
        &mut self,
        id: SagaId,
        epoch: Epoch,
        transaction: Transaction,
    ) -> Option<Ended> {
        let Transaction { fence, result, next } = transaction;
        let partition = fence.partition;
        let known = self.live.get_mut(&id).filter(|live| live.epoch == epoch && live.busy);
        let result = match result {
            // Not that its number exists: it could not be written, so there is no effect either.
            Ok(Transacted::Written(Outcome::Failed(error)))
                if error.code() != Code::SagaConflict =>
            {
                Err(error)
            }
            result => result,
        };
        let outcome = match result {
            Ok(Transacted::Written(outcome)) => outcome,
            Ok(Transacted::Ended(ended)) => {
                known?.busy = false;
                return Some(ended);
            }
            Err(error) if error.certainty() == Certainty::NotApplied => {
                known?.busy = false;
                let why = error.to_string().into();
                // Somebody else's transaction is in the way: that uses up no attempt.
                let is_busy = error.code() == Code::StoreBusy;
                return Some(if is_busy { Ended::NotMade(why) } else { Ended::Unknown(why) });
            }
            Err(error) => {
                tracing::warn!(saga = %id, %error, "nobody knows whether a step is committed; the saga is read again");
                if known.is_some() {
                    self.doubt(partition);
                }
                return None;
            }
        };
        if let (Some(live), Some(next), Outcome::Applied(_)) = (known, next, &outcome) {
            live.saga = next.in_place_of(&live.saga);
        }
        let item = Item { fence: Some(fence), ops: Vec::new() };
        self.written(Write::new(item, Of::Saga(id, partition)), outcome);
        None
    }
}

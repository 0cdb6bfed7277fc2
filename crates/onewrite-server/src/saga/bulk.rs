//! One decision about many sagas.

use std::sync::Arc;

use futures::{StreamExt as _, stream};
use onewrite::{
    Code, Error, Result, Text,
    error::Certainty,
    sabotage::{Defect, Sabotage},
    saga::{
        Journal, SagaId, Sagas, Verb,
        journal::{ListSagas, SagaHead, State, Waits},
    },
};
use serde::Serialize;

/// Sagas that one request may be about at most.
pub(crate) const LIMIT_MAX: usize = 10_000;

/// Sagas that are asked at the same time.
const AT_ONCE: usize = 64;

/// Sagas read at once.
const PAGE: usize = 1_000;

/// Refusals that are told, of any number.
const TOLD_MAX: usize = 20;

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Bulk {
    /// Sagas that heeded it.
    pub(crate) done: usize,
    /// Sagas of which nothing was changed.
    pub(crate) refused: usize,
    /// Sagas of which nobody knows: nobody who runs them has answered in time, and what was asked for stands.
    pub(crate) unknown: usize,
    /// Some of these and of the refused ones, and why.
    pub(crate) why: Vec<Refused>,
    /// Where to read on, if there may be more.
    pub(crate) next: Option<String>,
    /// Why the sagas behind those were not listed, should the store have failed.
    #[serde(serialize_with = "told", skip_serializing_if = "Option::is_none")]
    pub(crate) stopped: Option<Error>,
}

fn told<S: serde::Serializer>(error: &Option<Error>, to: S) -> Result<S::Ok, S::Error> {
    error.as_ref().map(ToString::to_string).serialize(to)
}

/// A saga that has not heeded it, as far as is known.
#[derive(Debug, Serialize)]
pub(crate) struct Refused {
    pub(crate) saga: String,
    pub(crate) why: String,
}

/// Has the same done to all sagas of a list, the newest first, and at most to as many as it says.
///
/// # Errors
/// What the store says while it lists the first ones. What becomes of each saga is told.
pub(crate) async fn steer(
    store: &Arc<dyn Journal>,
    sagas: &Sagas,
    mut which: ListSagas,
    verb: &Verb,
    (actor, reason): (&Text, &Text),
) -> Result<Bulk> {
    let denies = Sabotage::from_env().has(Defect::DenyAsked);
    let (mut bulk, mut left) = (Bulk::default(), which.limit.min(LIMIT_MAX));
    while left > 0 {
        which.limit = left.min(PAGE);
        let page = match store.list(&which).await {
            Ok(page) => page,
            Err(error) if bulk.asked() == 0 || denies => return Err(error),
            // What was decided until then is told, and where to go on.
            Err(error) => {
                bulk.stopped = Some(error);
                break;
            }
        };
        let (count, last) = (page.len(), page.last().map(|saga| saga.id));
        let asked = page.into_iter().filter(|saga| saga.ended_at.is_none()).map(|saga| {
            let (verb, actor, reason) = (verb.clone(), actor.clone(), reason.clone());
            async move { (saga.id, one(sagas, saga, verb, actor, reason).await) }
        });
        let mut answers = stream::iter(asked).buffer_unordered(AT_ONCE);
        while let Some((id, answer)) = answers.next().await {
            bulk.note(id, answer);
        }
        left -= count;
        if count < which.limit {
            return Ok(bulk);
        }
        which.behind = last;
    }
    bulk.next = which.behind.map(|last| last.to_string());
    Ok(bulk)
}

async fn one(sagas: &Sagas, saga: SagaHead, verb: Verb, actor: Text, reason: Text) -> Result<()> {
    if let Some(why) = saga.unreadable {
        return Err(Error::new(Code::Corrupt, why.to_string()));
    }
    let waits = saga.state == State::NeedsOperator || saga.waits == Waits::Operator;
    if verb == Verb::Resume && !waits {
        return Err(Error::new(Code::WrongState, "nothing of it is held or paused"));
    }
    sagas.steer(saga.id, verb, actor, reason).await
}

impl Bulk {
    /// Sagas that were asked so far.
    pub(crate) fn asked(&self) -> usize {
        self.done + self.refused + self.unknown
    }

    fn note(&mut self, saga: SagaId, answer: Result<()>) {
        let Err(error) = answer else {
            self.done += 1;
            return;
        };
        match error.certainty() {
            Certainty::Unknown => self.unknown += 1,
            _ => self.refused += 1,
        }
        if self.why.len() < TOLD_MAX {
            self.why.push(Refused { saga: saga.to_string(), why: error.to_string() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_knows_is_not_called_refused() {
        let mut bulk = Bulk::default();
        bulk.note(SagaId(1), Ok(()));
        bulk.note(SagaId(2), Err(Error::new(Code::CommitUnknown, "nobody has answered")));
        bulk.note(SagaId(3), Err(Error::new(Code::WrongState, "it has ended")));
        assert_eq!((bulk.done, bulk.unknown, bulk.refused, bulk.why.len()), (1, 1, 1, 2));
    }
}

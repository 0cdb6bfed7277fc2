//! One decision about many sagas.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

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
    /// Sagas of which nobody knows, since nobody who runs them has answered in time, or the store failed meanwhile: what
    /// was asked for may stand.
    pub(crate) unknown: usize,
    /// Some of these and of the refused ones, and why.
    pub(crate) why: Vec<Refused>,
    /// Where to read on, if there may be more. Where the store failed, what came of every saga until then is known, and
    /// of some behind it.
    pub(crate) next: Option<String>,
    /// Why it ended before all were asked, should the store have failed.
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

/// Has the same done to all sagas of a list, the newest first, and at most to as many as it says. Ends where the store
/// fails, and tells what came of those that were asked until then.
///
/// # Errors
/// What the store says before any saga was asked.
pub(crate) async fn steer(
    store: &Arc<dyn Journal>,
    sagas: &Sagas,
    mut which: ListSagas,
    verb: &Verb,
    (actor, reason): (&Text, &Text),
) -> Result<Bulk> {
    let denies = Sabotage::from_env().has(Defect::DenyMany);
    let (mut bulk, mut left) = (Bulk::default(), which.limit.min(LIMIT_MAX));
    // Behind which one the first stands of which it is not known what came of it.
    let mut open_behind = None;
    while left > 0 && bulk.stopped.is_none() {
        which.limit = left.min(PAGE);
        let page = match store.list(&which).await {
            Ok(page) => page,
            Err(error) => {
                bulk.stopped = Some(error);
                break;
            }
        };
        let (count, last) = (page.len(), page.last().map(|saga| saga.id));
        left -= count;
        if let Some(before) = bulk.page(sagas, page, verb, (actor, reason)).await {
            open_behind.get_or_insert(before.or(which.behind));
        }
        if count < which.limit && bulk.stopped.is_none() {
            return Ok(bulk);
        }
        which.behind = last.or(which.behind);
    }
    if bulk.stopped.is_some() {
        which.behind = open_behind.unwrap_or(which.behind);
    }
    bulk.next = which.behind.map(|last| last.to_string());
    match bulk.stopped.take() {
        Some(error) if denies || bulk.asked() == 0 => Err(error),
        stopped => Ok(Bulk { stopped, ..bulk }),
    }
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

/// Whether the store would say the same of the next saga, or nobody is left who asks it.
fn ends_all(error: &Error) -> bool {
    error.concerns_every_write() || error.code() == Code::Stopped
}

impl Bulk {
    /// Sagas that were asked so far.
    pub(crate) fn asked(&self) -> usize {
        self.done + self.refused + self.unknown
    }

    /// Asks these sagas, so many at the same time, until the store fails. Returns the one before the first of which it is
    /// not known what came of it, if there is such a one.
    async fn page(
        &mut self,
        sagas: &Sagas,
        page: Vec<SagaHead>,
        verb: &Verb,
        (actor, reason): (&Text, &Text),
    ) -> Option<Option<SagaId>> {
        let has_failed = AtomicBool::new(false);
        let order: Vec<SagaId> = page.iter().map(|saga| saga.id).collect();
        let unfinished = page.iter().filter(|saga| saga.ended_at.is_none());
        let mut open: HashSet<SagaId> = unfinished.map(|saga| saga.id).collect();
        let unfinished = page.into_iter().filter(|saga| saga.ended_at.is_none());
        // It is looked whenever there is room for another one.
        let unfinished = unfinished.take_while(|_| !has_failed.load(Ordering::Relaxed));
        let asked = unfinished.map(|saga| {
            let (verb, actor, reason) = (verb.clone(), actor.clone(), reason.clone());
            async move { (saga.id, one(sagas, saga, verb, actor, reason).await) }
        });
        let mut answers = stream::iter(asked).buffer_unordered(AT_ONCE);
        while let Some((id, answer)) = answers.next().await {
            match answer {
                Err(error) if ends_all(&error) => {
                    has_failed.store(true, Ordering::Relaxed);
                    self.stopped.get_or_insert(error);
                }
                answer => {
                    let is_unknown = |error: &Error| error.certainty() == Certainty::Unknown;
                    if !answer.as_ref().is_err_and(is_unknown) {
                        open.remove(&id);
                    }
                    self.note(id, answer);
                }
            }
        }
        let first = order.iter().position(|id| open.contains(id))?;
        Some(first.checked_sub(1).map(|before| order[before]))
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

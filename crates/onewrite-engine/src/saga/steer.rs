//! What a person decides about a saga, whoever runs it: asked of the runner here, or kept in the store until its
//! owner takes it.

use std::{sync::Arc, time::Duration};

use onewrite_core::{
    Code, Error, Result, Text,
    error::Certainty,
    sabotage::{Defect, Sabotage},
    saga::{
        Definition, Direction, Entry, Json, OpenStep, REQUEST, Refusal, Request, Saga, SagaId,
        Verb, check_text, journal::SavedSaga,
    },
};
use tokio::{sync::oneshot, time::Instant};

use super::{
    handle::{Command, LOOK_EVERY, Sagas, new_id, stopped},
    hold::Hold,
};

/// How long a request waits for an answer.
const HEARD_WITHIN: Duration = Duration::from_secs(30);

impl Sagas {
    /// Compensates a saga, whoever runs it, unless its pivot was attempted. Returns once the decision is
    /// durable.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::WrongState`] when it is too late; [`Code::CommitUnknown`] when nobody
    /// who runs it has answered in half a minute: the request stands for an hour.
    pub async fn cancel(
        &self,
        id: SagaId,
        actor: impl Into<Text>,
        reason: impl Into<Text>,
    ) -> Result<()> {
        self.want(id, Verb::Cancel, actor.into(), reason.into()).await
    }

    /// Lets steps that wait for a person try again, whoever runs the saga. Returns once the decision is
    /// durable.
    ///
    /// # Errors
    /// As [`Self::cancel`].
    pub async fn resume(
        &self,
        id: SagaId,
        actor: impl Into<Text>,
        reason: impl Into<Text>,
    ) -> Result<()> {
        self.want(id, Verb::Resume, actor.into(), reason.into()).await
    }

    /// Has something done to a saga by a person's decision, whoever runs it. Returns once it is durable, with
    /// who and why in the saga's journal.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::WrongState`] where the saga is not in a state for it; [`Code::InvalidInput`] for a
    /// step that it does not have; [`Code::CommitUnknown`] as [`Self::cancel`].
    pub async fn steer(
        &self,
        id: SagaId,
        verb: Verb,
        actor: impl Into<Text>,
        reason: impl Into<Text>,
    ) -> Result<()> {
        let tried = match &verb {
            Verb::Retry { step } => Some(step.clone()),
            _ => None,
        };
        let answer = self.want(id, verb, actor.into(), reason.into()).await;
        match (answer, tried) {
            (Err(error), Some(step)) if error.code() == Code::WrongState => {
                Err(self.with_hold(id, &step, error).await)
            }
            (answer, _) => answer,
        }
    }

    /// Why a step is not tried, with who is held, should it be that.
    async fn with_hold(&self, id: SagaId, step: &str, refused: Error) -> Error {
        let Ok(saved) = self.show(id).await else { return refused };
        let steps = self.open_steps(&saved).await.unwrap_or_default();
        let its = steps.into_iter().find(|(open, _)| *open.step == *step);
        let Some((_, Some(hold))) = its else { return refused };
        let Hold { participant, actor, reason, .. } = hold;
        let what = format!(
            "nothing is changed of the saga {id}: `{participant}` is held by {actor} ({reason}): release it, and the step is tried"
        );
        Error::new(Code::WrongState, what)
    }

    /// Lets a step that is under way elsewhere ask now how far it is, whoever runs the saga: whoever carries it
    /// out says so, and need not be asked often. It changes nothing else, so it may be said by anybody, and
    /// of a step that asks nobody it means nothing. Returns once it is durable.
    ///
    /// # Errors
    /// As [`Self::cancel`].
    pub async fn look(
        &self,
        id: SagaId,
        step: impl Into<Text>,
        actor: impl Into<Text>,
        reason: impl Into<Text>,
    ) -> Result<()> {
        self.want(id, Verb::Look { step: step.into() }, actor.into(), reason.into()).await
    }

    /// Asks the runner here, or whoever runs the saga by a request.
    async fn want(&self, id: SagaId, verb: Verb, actor: Text, reason: Text) -> Result<()> {
        for (what, text) in [("actor", &actor), ("reason", &reason)] {
            check_text(text)
                .map_err(|why| Error::new(Code::InvalidInput, format!("the {what} {why}")))?;
        }
        // Nothing is asked of who could not write it, and would have it wait.
        self.refuses_all()?;
        let verb = self.with_direction(id, verb).await?;
        let request = Request { id: new_id().to_string().into(), verb, actor, reason };
        let (reply, answer) = oneshot::channel();
        let here = self.ask(Command::Want { id, input: request.clone().input(), reply });
        let answered = match here {
            Ok(()) => answer.await.map_err(drop),
            Err(_) => Ok(Err(stopped())),
        };
        let elsewhere = |error: &Error| matches!(error.code(), Code::NotFound | Code::Stopped);
        let was_dropped = answered.is_err();
        match answered {
            Ok(Err(error)) if !elsewhere(&error) => return Err(error),
            Ok(Ok(())) => return Ok(()),
            Ok(Err(_)) | Err(()) => {}
        }
        let answer = self.want_elsewhere(id, &request, was_dropped).await;
        // Whoever was to say so lost the saga in between: it may be done.
        if was_dropped { answer.map_err(|error| unless_known(id, error)) } else { answer }
    }

    /// Asks whoever runs the saga by a request, unless it is found heeded.
    async fn want_elsewhere(&self, id: SagaId, request: &Request, was_dropped: bool) -> Result<()> {
        let saved = self.show(id).await?;
        if was_dropped && !request.needs_no_heed() && is_heeded(request, &saved)? {
            return Ok(());
        }
        if saved.ended_at.is_some() && matches!(request.verb, Verb::Look { .. }) {
            // Who says so may come late, and twice.
            return Ok(());
        }
        if let Some(why) = self.refusal(&saved, &request.verb).await? {
            return Err(refused(id, why));
        }
        self.signal(request.clone().signal(id)?).await?;
        // From here on it stands, whatever the store says.
        self.heard(id, request).await.map_err(|error| unless_known(id, error))
    }

    /// A step is skipped the way the saga goes when that is asked for: should it have turned by the time that is
    /// heeded, something else would be meant.
    async fn with_direction(&self, id: SagaId, verb: Verb) -> Result<Verb> {
        let Verb::Skip { step, output, direction: None } = verb else { return Ok(verb) };
        let saved = self.show(id).await?;
        let mut direction = Direction::Action;
        for transition in &saved.journal {
            if transition.entries()?.iter().any(Entry::turns_back) {
                direction = Direction::Compensation;
            }
        }
        Ok(Verb::Skip { step, output, direction: Some(direction) })
    }

    /// Waits until the owner has taken a request, and says what became of it.
    async fn heard(&self, id: SagaId, request: &Request) -> Result<()> {
        let until = Instant::now() + HEARD_WITHIN;
        while self.stands(id, request).await? {
            if Instant::now() >= until {
                let what = format!(
                    "nobody who runs the saga {id} has answered; the request stands for an hour"
                );
                return Err(Error::new(Code::CommitUnknown, what));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let saved = self.show(id).await?;
        if is_heeded(request, &saved)? {
            return Ok(());
        }
        let why = self.refusal(&saved, &request.verb).await?;
        let since = Refusal::State("it was not so far, or past that, when it was asked");
        Err(refused(id, why.unwrap_or(since)))
    }

    /// Why nothing would follow, as far as the store tells.
    async fn refusal(&self, saved: &SavedSaga, verb: &Verb) -> Result<Option<Refusal>> {
        if saved.ended_at.is_some() {
            return Ok(Some(Refusal::State("it has ended")));
        }
        Ok(self.recovered(saved).await?.refusal(verb))
    }

    /// The steps that a saga is at, and who is held of those that carry them out: why it does not go on. None of
    /// one whose journal or definition cannot be read.
    ///
    /// # Errors
    /// What the store says.
    pub async fn open_steps(&self, saved: &SavedSaga) -> Result<Vec<(OpenStep, Option<Hold>)>> {
        if saved.ended_at.is_some() {
            return Ok(Vec::new());
        }
        let steps = match self.recovered(saved).await {
            Ok(saga) => saga.open_steps(),
            Err(error) if matches!(error.code(), Code::Corrupt | Code::InvalidSaga) => Vec::new(),
            Err(error) => return Err(error),
        };
        let holds = self.holds().await?;
        let of = |step: &OpenStep| {
            let name = step.participant.as_deref()?;
            holds.iter().find(|hold| hold.covers(name)).cloned()
        };
        let with_hold = |step: OpenStep| {
            let hold = of(&step);
            (step, hold)
        };
        Ok(steps.into_iter().map(with_hold).collect())
    }

    /// A saga as its journal tells it.
    async fn recovered(&self, saved: &SavedSaga) -> Result<Saga> {
        let text = self.store().definition(&saved.definition).await?;
        let missing =
            || Error::new(Code::Corrupt, format!("the definition of {} is missing", saved.id));
        let checked = Arc::new(Definition::parse(&text.ok_or_else(missing)?)?);
        Saga::recovered(saved, checked, Sabotage::default())
    }

    /// Whether nobody has taken a request yet.
    async fn stands(&self, id: SagaId, request: &Request) -> Result<bool> {
        let about = vec![Text::from(id.to_string())];
        let found = self.store().signals(&REQUEST, about).await?;
        let is_it = |payload: &Json| {
            payload.read::<Request>("a request").is_ok_and(|found| found == *request)
        };
        Ok(found.iter().any(|(_, payload)| is_it(payload)))
    }
}

/// Whether the journal says that this was heeded.
fn is_heeded(request: &Request, saved: &SavedSaga) -> Result<bool> {
    let mut journal = Vec::new();
    for transition in &saved.journal {
        journal.extend(transition.entries()?);
    }
    Ok(request.is_heeded(&journal))
}

/// It was asked for: unless it is known that nothing follows, what the store says since then is no answer.
fn unless_known(id: SagaId, error: Error) -> Error {
    let is_known = matches!(error.code(), Code::WrongState | Code::InvalidInput | Code::NotFound);
    let denies = Sabotage::from_env().has(Defect::DenyAsked);
    if is_known || denies || error.certainty() == Certainty::Unknown {
        return error;
    }
    let what = format!(
        "nobody can tell what became of the request about the saga {id}; it may stand for an hour"
    );
    Error::new(Code::CommitUnknown, what).with_source(error)
}

pub(super) fn refused(id: SagaId, why: Refusal) -> Error {
    let (code, why) = match why {
        Refusal::NoStep => (Code::InvalidInput, "it has no step of this name"),
        Refusal::State(why) => (Code::WrongState, why),
    };
    Error::new(code, format!("nothing is changed of the saga {id}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_fails_behind_a_request_leaves_it_unknown() {
        let told = |code| unless_known(SagaId(1), Error::new(code, "read")).certainty();
        for code in [Code::StoreUnreachable, Code::DiskFull, Code::StoreBusy, Code::CommitUnknown] {
            assert_eq!(told(code), Certainty::Unknown, "{code:?}");
        }
        for code in [Code::WrongState, Code::InvalidInput, Code::NotFound] {
            assert_eq!(told(code), Certainty::NotApplied, "{code:?}");
        }
    }
}

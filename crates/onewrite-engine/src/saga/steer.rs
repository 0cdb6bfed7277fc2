//! What a person decides about a saga, whoever runs it: asked of the runner here, or kept in the store until its
//! owner takes it.

use std::{sync::Arc, time::Duration};

use onewrite_core::{
    Code, Error, Result, Text,
    error::Certainty,
    sabotage::{Defect, Sabotage},
    saga::{
        Definition, Direction, Entry, Json, OpenStep, REQUEST, Refusal, Request, Saga, SagaId,
        Verb, check_text,
        journal::{SavedSaga, SavedTransition},
    },
};
use tokio::{sync::oneshot, time::Instant};

use super::{
    handle::{Command, LOOK_EVERY, Sagas, new_id, stopped},
    hold::Hold,
};

/// How long a request waits for an answer.
const HEARD_WITHIN: Duration = Duration::from_secs(30);

/// Why a step is not to be tried again.
const UNDER_WAY: &str = "this step is being tried, or will be once its participant can be asked";

impl Sagas {
    /// Compensates a saga, whoever runs it, unless its pivot was attempted. Returns once the decision is
    /// durable.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::WrongState`] when it is too late; [`Code::CommitUnknown`] when nobody
    /// who runs it has answered in half a minute, or the store failed meanwhile: the request may stand for an hour.
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
        self.want(id, verb, actor.into(), reason.into()).await
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
        let (verb, since) = match verb.needs_no_heed() {
            true => (verb, 0),
            false => {
                let before = self.show(id).await?;
                if before.ended_at.is_some() {
                    return Err(refused(id, Refusal::State("it has ended")));
                }
                (with_direction(verb, &before)?, version(&before))
            }
        };
        let request = Request { id: new_id().to_string().into(), verb, actor, reason };
        let asked = Asked { id, request, since };
        let (reply, answer) = oneshot::channel();
        let input = asked.request.clone().input();
        let here = self.ask(Command::Want { id, input, reply });
        let answered = match here {
            // A store that is away, or full, may keep it from being written.
            Ok(()) => match tokio::time::timeout(HEARD_WITHIN, answer).await {
                Ok(answer) => answer.map_err(drop),
                Err(_) => Ok(Err(unanswered(id))),
            },
            Err(_) => Ok(Err(stopped())),
        };
        let elsewhere = |error: &Error| matches!(error.code(), Code::NotFound | Code::Stopped);
        let was_dropped = answered.is_err();
        match answered {
            Ok(Err(error)) if error.code() == Code::WrongState => {
                return Err(self.refused(&asked).await.unwrap_or(error));
            }
            Ok(Err(error)) if !elsewhere(&error) => return Err(error),
            Ok(Ok(())) => return Ok(()),
            Ok(Err(_)) | Err(()) => {}
        }
        let answer = self.want_elsewhere(&asked, was_dropped).await;
        // Whoever was to say so lost the saga in between: it may be done.
        if was_dropped { answer.map_err(|error| unless_known(id, error)) } else { answer }
    }

    /// Asks whoever runs the saga by a request, unless it is found heeded.
    async fn want_elsewhere(&self, asked: &Asked, was_dropped: bool) -> Result<()> {
        let Asked { id, request, .. } = asked;
        let saved = self.show(*id).await?;
        if was_dropped && !request.verb.needs_no_heed() && self.is_so(asked, &saved).await? {
            return Ok(());
        }
        if saved.ended_at.is_some() && matches!(request.verb, Verb::Look { .. }) {
            // Who says so may come late, and twice.
            return Ok(());
        }
        if let Some(why) = self.refusal(&saved, &request.verb).await? {
            return Err(why);
        }
        self.signal(request.clone().signal(*id)?).await?;
        // From here on it stands, whatever the store says.
        self.heard(asked).await.map_err(|error| unless_known(*id, error))
    }

    /// Waits until the owner has taken a request, and says what became of it.
    async fn heard(&self, asked: &Asked) -> Result<()> {
        let Asked { id, request, .. } = asked;
        let until = Instant::now() + HEARD_WITHIN;
        while self.stands(*id, request).await? {
            if Instant::now() >= until {
                return Err(unanswered(*id));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let saved = self.show(*id).await?;
        if self.is_so(asked, &saved).await? {
            return Ok(());
        }
        let since = Refusal::State(match request.verb {
            Verb::Retry { .. } => "nothing of it could be tried when it was asked: ask again",
            _ => "it was not so far, or past that, when it was asked",
        });
        let why = self.refusal(&saved, &request.verb).await?;
        Err(why.unwrap_or_else(|| refused(*id, since)))
    }

    /// Whether the store says that a request was heeded, or that it is so already.
    async fn is_so(&self, asked: &Asked, saved: &SavedSaga) -> Result<bool> {
        let verb = &asked.request.verb;
        Ok(asked.is_heeded(&saved.journal)? || self.recovered(saved).await?.is_so(verb))
    }

    /// Why nothing would follow, as far as the store tells.
    async fn refusal(&self, saved: &SavedSaga, verb: &Verb) -> Result<Option<Error>> {
        let id = saved.id;
        if saved.ended_at.is_some() {
            return Ok(Some(refused(id, Refusal::State("it has ended"))));
        }
        let saga = self.recovered(saved).await?;
        let Some(why) = saga.refusal(verb) else { return Ok(None) };
        let Verb::Retry { step } = verb else { return Ok(Some(refused(id, why))) };
        let open = saga.open_steps().into_iter().find(|open| open.step == *step);
        let participant =
            open.and_then(|open| open.participant).filter(|_| why == Refusal::UnderWay);
        let Some(participant) = participant else { return Ok(Some(refused(id, why))) };
        // It is refused all the same where that is not known.
        let holds = self.holds().await.unwrap_or_default();
        let hold = holds.into_iter().find(|hold| hold.covers(&participant));
        let refused = refused(id, why);
        let Some(hold) = hold else { return Ok(Some(refused)) };
        let what = format!("{}; {hold}; no attempt begins until it is released", refused.context());
        Ok(Some(Error::new(refused.code(), what)))
    }

    /// The same, of what the runner here has refused: with what the store tells besides.
    async fn refused(&self, asked: &Asked) -> Option<Error> {
        let saved = self.show(asked.id).await.ok()?;
        self.refusal(&saved, &asked.request.verb).await.ok().flatten()
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
        Saga::recovered(saved, checked, Sabotage::from_env())
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

/// What is wanted of a saga, and how far its journal was before.
struct Asked {
    id: SagaId,
    request: Request,
    since: u32,
}

impl Asked {
    /// Whether the journal says so: somebody may have wanted the same before, for the same reason.
    fn is_heeded(&self, transitions: &[SavedTransition]) -> Result<bool> {
        let mut journal = Vec::new();
        for transition in transitions.iter().filter(|line| line.version > self.since) {
            journal.extend(transition.entries()?);
        }
        Ok(self.request.is_heeded(&journal))
    }
}

/// The number of its last transition.
fn version(saved: &SavedSaga) -> u32 {
    saved.journal.last().map_or(0, |last| last.version)
}

/// A step is skipped the way the saga goes when that is asked for: should it have turned by the time that is
/// heeded, something else would be meant.
fn with_direction(verb: Verb, saved: &SavedSaga) -> Result<Verb> {
    let Verb::Skip { step, output, direction: None } = verb else { return Ok(verb) };
    let mut direction = Direction::Action;
    for transition in &saved.journal {
        if transition.entries()?.iter().any(Entry::turns_back) {
            direction = Direction::Compensation;
        }
    }
    Ok(Verb::Skip { step, output, direction: Some(direction) })
}

fn unanswered(id: SagaId) -> Error {
    let what =
        format!("nobody who runs the saga {id} has answered; it may be done, or stand for an hour");
    Error::new(Code::CommitUnknown, what)
}

/// It was asked for: unless it is known that nothing follows, what the store says since then is no answer.
fn unless_known(id: SagaId, error: Error) -> Error {
    let is_known = matches!(error.code(), Code::WrongState | Code::InvalidInput | Code::NotFound);
    let denies = Sabotage::from_env().has(Defect::DenyDecision);
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
        Refusal::UnderWay => (Code::WrongState, UNDER_WAY),
    };
    Error::new(code, format!("nothing is changed of the saga {id}: {why}"))
}

#[cfg(test)]
mod tests {
    use onewrite_core::Timestamp;

    use super::*;

    #[test]
    fn what_was_wanted_before_for_the_same_reason_is_not_taken_for_this() {
        let retried = r#"[{"retried":{"step":"charge","actor":"ann","reason":"it is back"}}]"#;
        let line =
            SavedTransition { version: 4, time: Timestamp(0), epoch: 1, json: retried.into() };
        let verb = Verb::Retry { step: "charge".into() };
        let (actor, reason) = ("ann".into(), "it is back".into());
        let request = Request { id: "r".into(), verb, actor, reason };
        let asked = |since| Asked { id: SagaId(1), request: request.clone(), since };
        let journal = [line];
        assert!(asked(3).is_heeded(&journal).is_ok_and(|is_it| is_it));
        assert!(asked(4).is_heeded(&journal).is_ok_and(|is_it| !is_it));
    }

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

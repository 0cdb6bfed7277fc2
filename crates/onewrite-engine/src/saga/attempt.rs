//! Making one attempt: a task of its own that ends in a known way, whatever the user's code does.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use futures::FutureExt as _;
use onewrite_core::{
    Code, Text, failpoint,
    lease::Epoch,
    saga::{Call, Direction, Ended, Participant, SagaId},
};

use super::transaction::Transaction;

/// Characters of a reason that are kept.
const REASON_MAX: usize = 1_000;

/// How an attempt ended, and whose it was.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) saga: SagaId,
    pub(super) epoch: Epoch,
    pub(super) step: usize,
    pub(super) direction: Direction,
    pub(super) number: u32,
    /// Where it was made.
    pub(super) gate: usize,
    pub(super) how: How,
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum How {
    /// It is still to be journaled.
    Ended(Ended),
    /// The same, and says nothing of its participant, which was not asked.
    NotAsked(Ended),
    /// It was made in a transaction that may have journaled it.
    Transaction(Box<Transaction>),
}

/// Makes the attempt. It ends at its deadline, and with a panic of the participant.
pub(super) async fn make(participant: Arc<dyn Participant>, call: Call) -> Ended {
    let deadline = call.deadline;
    let ended = in_time(deadline, async move { participant.act(call).await }).await;
    failpoint::hit("saga.after_attempt_before_journal");
    shortened(ended.unwrap_or_else(|ended| ended))
}

/// Nobody serves this participant here.
pub(super) fn nobody(name: &str) -> Ended {
    let code = Code::UnknownParticipant;
    Ended::NotMade(format!("{code}: no participant `{name}` here").into())
}

/// What the user's code answers.
///
/// # Errors
/// That it panicked, or did not answer in time.
pub(super) async fn in_time<T>(
    deadline: Instant,
    acting: impl Future<Output = T>,
) -> Result<T, Ended> {
    match tokio::time::timeout_at(deadline.into(), AssertUnwindSafe(acting).catch_unwind()).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(Ended::Unknown(Text::from_static("the participant panicked"))),
        Err(_) => Err(Ended::Unknown(Text::from_static("no answer in time"))),
    }
}

pub(super) fn shortened(ended: Ended) -> Ended {
    let cut = |reason: Text| match reason.char_indices().nth(REASON_MAX) {
        Some((at, _)) => Text::from(format!("{}…", &reason[..at])),
        None => reason,
    };
    match ended {
        Ended::Done(output) => Ended::Done(output),
        Ended::Aborted(reason) => Ended::Aborted(cut(reason)),
        Ended::Unknown(reason) => Ended::Unknown(cut(reason)),
        Ended::NotMade(reason) => Ended::NotMade(cut(reason)),
        Ended::UnderWay { look_in, reason } => Ended::UnderWay { look_in, reason: cut(reason) },
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use onewrite_core::{
        BoxFuture,
        saga::{Json, StepKey},
    };

    use super::*;

    fn call(within: Duration) -> Call {
        Call {
            saga: SagaId(1),
            step: "a".into(),
            key: StepKey::action(SagaId(1), "a"),
            direction: Direction::Action,
            attempt: 1,
            epoch: 1,
            deadline: Instant::now() + within,
            input: Json::NULL,
            output: None,
        }
    }

    async fn ended(act: fn(Call) -> BoxFuture<'static, Ended>, within: Duration) -> Ended {
        make(Arc::new(act), call(within)).await
    }

    #[tokio::test]
    async fn whatever_happens_is_an_outcome() {
        let long = Duration::from_secs(60);
        let panics = ended(|_| panic!("at once"), long).await;
        assert_eq!(panics, Ended::Unknown("the participant panicked".into()));
        let later = ended(|_| Box::pin(async { panic!("later") }), long).await;
        assert_eq!(later, panics);
        let hangs = ended(|_| Box::pin(std::future::pending()), Duration::from_millis(1)).await;
        assert_eq!(hangs, Ended::Unknown("no answer in time".into()));
        assert_eq!(nobody("bank"), Ended::NotMade("OW0034: no participant `bank` here".into()));
        let talks = |_| -> BoxFuture<'static, Ended> {
            Box::pin(async { Ended::Aborted("é".repeat(5_000).into()) })
        };
        let Ended::Aborted(reason) = ended(talks, long).await else { panic!("aborted") };
        assert_eq!(reason.chars().count(), REASON_MAX + 1);
    }
}

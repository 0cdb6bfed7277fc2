//! Making one attempt: a task of its own that ends in a known way, whatever the user's code does.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt as _;
use onewrite_core::{
    Code, Text, failpoint,
    lease::Epoch,
    saga::{Direction, Ended, SagaId},
};

use super::participant::{Call, Participant};

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
    pub(super) ended: Ended,
}

/// Makes the attempt. It ends at its deadline, and with a panic of the participant.
pub(super) async fn make(
    participant: Option<Arc<dyn Participant>>,
    name: &str,
    call: Call,
) -> Ended {
    let Some(participant) = participant else {
        let code = Code::UnknownParticipant;
        return Ended::NotMade(format!("{code}: no participant `{name}` here").into());
    };
    let deadline = call.deadline.into();
    // Asked within the future, so that a panic before it waits for the first time is caught as well.
    let acting = AssertUnwindSafe(async move { participant.act(call).await }).catch_unwind();
    let ended = match tokio::time::timeout_at(deadline, acting).await {
        Ok(Ok(ended)) => ended,
        Ok(Err(_)) => Ended::Unknown(Text::from_static("the participant panicked")),
        Err(_) => Ended::Unknown(Text::from_static("no answer in time")),
    };
    failpoint::hit("saga.after_attempt_before_journal");
    shortened(ended)
}

fn shortened(ended: Ended) -> Ended {
    let cut = |reason: Text| match reason.char_indices().nth(REASON_MAX) {
        Some((at, _)) => Text::from(format!("{}…", &reason[..at])),
        None => reason,
    };
    match ended {
        Ended::Done(output) => Ended::Done(output),
        Ended::Aborted(reason) => Ended::Aborted(cut(reason)),
        Ended::Unknown(reason) => Ended::Unknown(cut(reason)),
        Ended::NotMade(reason) => Ended::NotMade(cut(reason)),
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
        make(Some(Arc::new(act)), "a", call(within)).await
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
        let nobody = make(None, "bank", call(long)).await;
        assert_eq!(nobody, Ended::NotMade("OW0034: no participant `bank` here".into()));
        let talks = |_| -> BoxFuture<'static, Ended> {
            Box::pin(async { Ended::Aborted("é".repeat(5_000).into()) })
        };
        let Ended::Aborted(reason) = ended(talks, long).await else { panic!("aborted") };
        assert_eq!(reason.chars().count(), REASON_MAX + 1);
    }
}

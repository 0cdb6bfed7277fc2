//! How a saga ended, while the answer to its start waits for that.

use std::time::Duration;

use onewrite::{
    Result, Text,
    sabotage::{Defect, Sabotage},
    saga::{Entry, Json, Outcome, SagaId, State, journal::SavedSaga},
};
use serde::Serialize;

use super::routes::Api;

/// How long an answer may wait for the end of a saga.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How a saga ended, if it has.
#[derive(Debug, Default, Serialize)]
pub(super) struct End {
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<Why>,
}

/// Why a saga was compensated.
#[derive(Debug, Serialize)]
struct Why {
    /// The step that failed, if it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<Text>,
    reason: Text,
}

impl End {
    /// The end, if it comes within this time. The start is durable: should the store not tell of the end, the saga
    /// goes on all the same, and its id is the answer.
    pub(super) async fn within(api: &Api, id: SagaId, wait_ms: u64) -> Result<Self> {
        if wait_ms == 0 {
            return Ok(Self::default());
        }
        let patience = Duration::from_millis(wait_ms).min(WAIT_MAX);
        let ended = match tokio::time::timeout(patience, api.sagas.ended(id)).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(error)) if Sabotage::from_env().has(Defect::DenyAsked) => return Err(error),
            _ => return Ok(Self::default()),
        };
        Ok(match ended {
            Outcome::Completed(output) => {
                let state = Some(State::Completed.as_str());
                Self { state, output: Some(output), why: None }
            }
            Outcome::Compensated => {
                // That it ended is known: a journal that cannot be read takes nothing from it.
                let why = api.sagas.show(id).await.ok().and_then(|saga| why(&saga));
                Self { state: Some(State::Compensated.as_str()), output: None, why }
            }
        })
    }
}

/// What turned the saga back, as its journal has it.
fn why(saga: &SavedSaga) -> Option<Why> {
    let mut entries = saga.journal.iter().filter_map(|line| line.entries().ok()).flatten();
    let turned = entries.find(Entry::turns_back)?;
    let (step, reason) = match turned {
        Entry::Failed { step, reason, .. } => (Some(step), reason),
        Entry::Cancelled { actor, reason } => {
            (None, format!("cancelled by {actor}: {reason}").into())
        }
        Entry::ForceCompensated { actor, reason } => {
            (None, format!("compensated in any case, by {actor}: {reason}").into())
        }
        _ => (None, Text::from_static("it was not done in time")),
    };
    Some(Why { step, reason })
}

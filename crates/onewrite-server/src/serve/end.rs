//! How a saga ended, while the answer to its start waits for that.

use std::time::Duration;

use onewrite::{
    Result, Text,
    sabotage::{Defect, Sabotage},
    saga::{Json, Outcome, SagaId, State, TurnedBack},
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
    /// The end, if it comes within this time. The start is durable: should the store not tell of the end, or this
    /// server be stopped, the saga goes on all the same, and its id is the answer.
    ///
    /// # Errors
    /// None, but for a planted defect.
    pub(super) async fn within(api: &Api, id: SagaId, wait_ms: u64) -> Result<Self> {
        if wait_ms == 0 {
            return Ok(Self::default());
        }
        let patience = Duration::from_millis(wait_ms).min(WAIT_MAX);
        let ended = tokio::time::timeout(patience, api.sagas.ended(id));
        let ended = tokio::select! {
            biased;
            ended = ended => ended,
            // Whoever asks next can ask another server, by the id.
            () = api.shutdown.begun() => return Ok(Self::default()),
        };
        let ended = match ended {
            Ok(Ok(ended)) => ended,
            Ok(Err(error)) if Sabotage::from_env().has(Defect::DenyStart) => return Err(error),
            _ => return Ok(Self::default()),
        };
        Ok(match ended {
            Outcome::Completed(output) => {
                let state = Some(State::Completed.as_str());
                Self { state, output: Some(output), why: None }
            }
            Outcome::Compensated => {
                // That it ended is known: a journal that cannot be read takes nothing from it.
                let saga = api.sagas.show(id).await.ok();
                let why = saga.and_then(|saga| saga.turned_back()).map(Why::from);
                Self { state: Some(State::Compensated.as_str()), output: None, why }
            }
        })
    }
}

impl From<TurnedBack> for Why {
    fn from(TurnedBack { step, reason }: TurnedBack) -> Self {
        Self { step, reason }
    }
}

//! A saga, as the API and the verbs show it.

use onewrite::{
    Text,
    saga::{
        Direction, Hold, Json, OpenStep,
        journal::{SagaHead, SavedSaga, SavedTransition},
    },
};
use serde::Serialize;

/// A saga with its journal.
#[derive(Serialize)]
pub(crate) struct View<'a> {
    #[serde(flatten)]
    head: Head,
    input: &'a Json,
    output: Option<&'a Json>,
    /// The steps that it is at. Not in an archive, where sagas have ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    open_steps: Option<Vec<Open<'a>>>,
    journal: Vec<Line>,
}

/// A step that it is at.
#[derive(Serialize)]
struct Open<'a> {
    step: &'a Text,
    direction: Direction,
    participant: Option<&'a Text>,
    attempts: u32,
    at: Option<String>,
    signal: Option<Signal<'a>>,
    needs_operator: bool,
    held: Option<&'a Hold>,
}

/// A signal that is waited for.
#[derive(Serialize)]
struct Signal<'a> {
    name: &'a Text,
    correlation: &'a Text,
}

/// A transition.
#[derive(Serialize)]
struct Line {
    version: u32,
    time: String,
    epoch: u64,
    entries: Json,
}

impl<'a> View<'a> {
    pub(crate) fn of(saga: &'a SavedSaga) -> Self {
        let line = |line: &SavedTransition| Line {
            version: line.version,
            time: line.time.to_string(),
            epoch: line.epoch,
            entries: Json::trusted(line.json.clone()),
        };
        Self {
            head: Head::of(&saga.head()),
            input: &saga.input,
            output: saga.standing.output.as_ref(),
            open_steps: None,
            journal: saga.journal.iter().map(line).collect(),
        }
    }

    /// With the steps that it is at.
    pub(crate) fn at(self, steps: &'a [(OpenStep, Option<Hold>)]) -> Self {
        let open = |(open, hold): &'a (OpenStep, Option<Hold>)| Open {
            step: &open.step,
            direction: open.direction,
            participant: open.participant.as_ref(),
            attempts: open.attempts,
            at: open.at.map(|time| time.to_string()),
            signal: open
                .signal
                .as_ref()
                .map(|signal| Signal { name: &signal.name, correlation: &signal.correlation }),
            needs_operator: open.needs_operator,
            held: hold.as_ref(),
        };
        Self { open_steps: Some(steps.iter().map(open).collect()), ..self }
    }
}

/// A saga of a list.
#[derive(Serialize)]
pub(crate) struct Head {
    pub(crate) id: String,
    pub(crate) name: Text,
    pub(crate) key: Text,
    pub(crate) run: u32,
    definition: Text,
    /// None where the row cannot be read.
    pub(crate) state: Option<&'static str>,
    pub(crate) waits: Option<&'static str>,
    pub(crate) due_at: Option<String>,
    pub(crate) started_at: String,
    pub(crate) ended_at: Option<String>,
    parent: Option<String>,
    pub(crate) unreadable: Option<Text>,
}

impl Head {
    pub(crate) fn of(saga: &SagaHead) -> Self {
        let readable = saga.unreadable.is_none();
        Self {
            id: saga.id.to_string(),
            name: saga.name.clone(),
            key: saga.key.clone(),
            run: saga.run,
            definition: saga.definition.clone(),
            state: readable.then(|| saga.state.as_str()),
            waits: readable.then(|| saga.waits.as_str()),
            due_at: saga.due.map(|time| time.to_string()),
            started_at: saga.started_at.to_string(),
            ended_at: saga.ended_at.map(|time| time.to_string()),
            parent: saga.parent.as_ref().map(ToString::to_string),
            unreadable: saga.unreadable.clone(),
        }
    }
}

/// A page of a list, the newest first.
#[derive(Serialize)]
pub(crate) struct Page {
    pub(crate) sagas: Vec<Head>,
    /// Where to read on, if there may be more: `behind` of the next page.
    pub(crate) next: Option<String>,
}

impl Page {
    pub(crate) fn of(sagas: &[SagaHead], limit: usize) -> Self {
        let next = sagas.last().filter(|_| sagas.len() >= limit).map(|last| last.id.to_string());
        Self { sagas: sagas.iter().map(Head::of).collect(), next }
    }
}

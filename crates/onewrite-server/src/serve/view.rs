//! A saga, as the API shows it.

use onewrite::{
    Text,
    saga::{Json, journal::SavedSaga},
};
use serde::Serialize;

/// A saga with its journal.
#[derive(Serialize)]
pub(super) struct View<'a> {
    id: String,
    name: &'a Text,
    key: &'a Text,
    run: u32,
    definition: &'a Text,
    state: &'static str,
    waits: &'static str,
    due_at: Option<String>,
    started_at: String,
    ended_at: Option<String>,
    parent: Option<String>,
    input: &'a Json,
    output: Option<&'a Json>,
    journal: Vec<Line>,
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
    pub(super) fn of(saga: &'a SavedSaga) -> Self {
        let line = |line: &onewrite::saga::journal::SavedTransition| Line {
            version: line.version,
            time: line.time.to_string(),
            epoch: line.epoch,
            entries: Json::trusted(line.json.clone()),
        };
        Self {
            id: saga.id.to_string(),
            name: &saga.name,
            key: &saga.key,
            run: saga.run,
            definition: &saga.definition,
            state: saga.standing.state.as_str(),
            waits: saga.standing.waits.as_str(),
            due_at: saga.standing.due.map(|time| time.to_string()),
            started_at: saga.started_at.to_string(),
            ended_at: saga.ended_at.map(|time| time.to_string()),
            parent: saga.parent.as_ref().map(ToString::to_string),
            input: &saga.input,
            output: saga.standing.output.as_ref(),
            journal: saga.journal.iter().map(line).collect(),
        }
    }
}

//! How a global transaction stands, in dtm's words.

use std::sync::Arc;

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode},
};
use onewrite::{
    http::dtm::CHECK,
    saga::{
        Entry, SavedSaga,
        journal::{ListSagas, SagaHead, State as Stands},
    },
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Api, NAME, Right, answer, find, invalid};

/// Transactions in one list at most, and unless it is said.
const LIMIT_MAX: usize = 1_000;
const LIMIT: usize = 100;

/// Whether a message waits for its sender to commit.
pub(super) fn is_prepared(saga: &SavedSaga) -> bool {
    let entries = saga.journal.iter().flat_map(|one| one.entries().unwrap_or_default());
    let is_past = |entry: Entry| match entry {
        Entry::Done { step, .. } | Entry::Skipped { step, .. } => *step == *CHECK,
        entry => entry.turns_back(),
    };
    was_prepared(saga) && !entries.into_iter().any(is_past)
}

/// Whether it was prepared before it was submitted.
pub(super) fn was_prepared(saga: &SavedSaga) -> bool {
    saga.input.read::<Value>("a transaction").is_ok_and(|input| input["prepared"] == json!(true))
}

/// `saga` or `msg`; nothing of what is no transaction.
pub(super) fn trans_type(saga: &SavedSaga) -> String {
    let input = saga.input.read::<Value>("a transaction").unwrap_or_default();
    input["trans_type"].as_str().unwrap_or_default().to_owned()
}

/// dtm's word for how it stands.
pub(super) fn status(saga: &SavedSaga) -> &'static str {
    let mut turned = false;
    for transition in &saga.journal {
        turned |= transition.entries().unwrap_or_default().iter().any(Entry::turns_back);
    }
    match saga.standing.state {
        Stands::Completed => "succeed",
        Stands::Compensated => "failed",
        _ if turned => "aborting",
        _ if is_prepared(saga) => "prepared",
        _ => "submitted",
    }
}

#[derive(Deserialize)]
pub(super) struct Which {
    gid: String,
}

pub(super) async fn query(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    which: Result<Query<Which>, QueryRejection>,
) -> Answer {
    api.access.check(&headers, Right::Read)?;
    let Query(Which { gid }) = which.map_err(|error| invalid(&error.body_text()))?;
    let Some(saga) = find(&api, &gid).await? else {
        return Ok(answer(StatusCode::OK, &json!({"transaction": null, "branches": []})));
    };
    let mut branches = Vec::new();
    for transition in &saga.journal {
        let branch = |entry: &Entry| {
            let (step, op, status) = match entry {
                Entry::Done { step, .. } | Entry::Skipped { step, .. } => {
                    (step, "action", "succeed")
                }
                Entry::Failed { step, .. } => (step, "action", "failed"),
                Entry::Compensated { step, .. } => (step, "compensate", "succeed"),
                _ => return None,
            };
            let (step, time) = (&**step, transition.time.to_string());
            Some(
                json!({"gid": gid, "branch_id": step, "op": op, "status": status, "finish_time": time}),
            )
        };
        branches.extend(transition.entries()?.iter().filter_map(branch));
    }
    let input: Value = saga.input.read("a transaction")?;
    let transaction = json!({
        "id": saga.id.to_string(), "gid": gid, "trans_type": input["trans_type"], "status": status(&saga),
        "create_time": saga.started_at.to_string(),
        "finish_time": saga.ended_at.map(|time| time.to_string()),
    });
    Ok(answer(StatusCode::OK, &json!({"transaction": transaction, "branches": branches})))
}

#[derive(Deserialize)]
pub(super) struct All {
    gid: Option<String>,
    position: Option<String>,
    limit: Option<usize>,
}

/// A page of all, the newest first. Whether one is prepared is told by `query` alone.
pub(super) async fn all(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    which: Result<Query<All>, QueryRejection>,
) -> Answer {
    api.access.check(&headers, Right::Read)?;
    let Query(All { gid, position, limit }) = which.map_err(|error| invalid(&error.body_text()))?;
    let limit = limit.unwrap_or(LIMIT).clamp(1, LIMIT_MAX);
    let behind = position.filter(|text| !text.is_empty()).map(|text| text.parse()).transpose()?;
    let key = gid.filter(|gid| !gid.is_empty()).map(Into::into);
    let which = ListSagas { name: Some(NAME), key, behind, limit, ..ListSagas::default() };
    let found = api.store.list(&which).await?;
    let last = found.last().filter(|_| found.len() == limit);
    let next = last.map(|last| last.id.to_string()).unwrap_or_default();
    let transactions: Vec<Value> = found.iter().map(head).collect();
    Ok(answer(StatusCode::OK, &json!({"transactions": transactions, "next_position": next})))
}

fn head(saga: &SagaHead) -> Value {
    let status = match saga.state {
        Stands::Completed => "succeed",
        Stands::Compensated => "failed",
        Stands::Compensating => "aborting",
        Stands::Running | Stands::NeedsOperator => "submitted",
    };
    json!({"id": saga.id.to_string(), "gid": &*saga.key, "status": status, "create_time": saga.started_at.to_string(),
        "finish_time": saga.ended_at.map(|time| time.to_string())})
}

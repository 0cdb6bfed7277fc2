//! The routes of what people decide: about a saga, about many, and about a participant.

use std::sync::Arc;

use axum::{
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode},
    response::IntoResponse as _,
};
use onewrite::{
    Code, Text,
    saga::{Hold, Json, Verb, check_text, journal::ListSagas},
};
use serde::Deserialize;

use super::{
    access::Right,
    problem::Problem,
    routes::{Answer, Api, ROUTES, body, invalid, json, saga_id},
    which::{self, Asked},
};
use crate::saga::{bulk, naming};

/// What somebody decides about a saga, why, and who, where that is not known by a token.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Steer {
    #[serde(default)]
    actor: Option<Text>,
    reason: Text,
    /// The step that it is about.
    #[serde(default)]
    step: Option<Text>,
    /// What a step that is skipped is to have answered.
    #[serde(default)]
    output: Option<Json>,
}

impl Steer {
    /// Who wants it, and why. Whose token it is is not for the request to say.
    fn who(self, holder: Option<Text>) -> Result<(Text, Text), Problem> {
        let actor = holder.or(self.actor).unwrap_or(Text::from_static("anonymous"));
        for (what, text) in [("the reason", &self.reason), ("the actor", &actor)] {
            check_text(text).map_err(|why| {
                invalid(&format!("{what} {why}; it stands in the saga's journal"))
            })?;
        }
        Ok((actor, self.reason))
    }

    /// What is to be done, by the last part of the route.
    fn verb(&mut self, name: &str) -> Result<Verb, Problem> {
        let (step, output) = (self.step.take(), self.output.take());
        let of_step = matches!(name, "retry" | "skip");
        if of_step && step.is_none() {
            return Err(invalid("say which `step` that is about"));
        }
        if step.is_some() && !of_step || output.is_some() && name != "skip" {
            return Err(invalid("`step` belongs to retry and skip, and `output` to skip"));
        }
        let output = output.unwrap_or(Json::NULL);
        output.check("the step's output")?;
        Ok(match (name, step) {
            ("cancel", _) => Verb::Cancel,
            ("pause", _) => Verb::Pause,
            ("resume", _) => Verb::Resume,
            ("retry", Some(step)) => Verb::Retry { step },
            ("skip", Some(step)) => Verb::Skip { step, output, direction: None },
            ("force-compensate", _) => Verb::ForceCompensate,
            ("force-complete", _) => Verb::ForceComplete,
            _ => {
                let what = "there is no such route: see /v1/openapi.json";
                let unknown = Problem::new(StatusCode::NOT_FOUND, Code::NotFound, what);
                return Err(unknown.with_cure(ROUTES));
            }
        })
    }
}

pub(super) async fn one(
    State(api): State<Arc<Api>>,
    Path((id, name)): Path<(String, String)>,
    request: Request,
) -> Answer {
    let holder = api.access.check(request.headers(), Right::Steer)?;
    let mut steer: Steer = body(request).await?;
    let verb = steer.verb(&name)?;
    let (actor, reason) = steer.who(holder)?;
    api.sagas.steer(saga_id(&id)?, verb, actor, reason).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// One decision about many: those that the query names, as a list does.
pub(super) async fn many(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    which: Asked,
    request: Request,
) -> Answer {
    let holder = api.access.check(request.headers(), Right::Steer)?;
    let which = which::read(which, bulk::LIMIT_MAX, bulk::LIMIT_MAX)?;
    let everything = ListSagas { behind: which.behind, limit: which.limit, ..ListSagas::default() };
    if which == everything {
        return Err(invalid(
            "say which: `state`, `name`, `key`, `attribute`, `started_from` or `started_before`",
        ));
    }
    let mut steer: Steer = body(request).await?;
    let verb = steer.verb(&name)?;
    let (actor, reason) = steer.who(holder)?;
    let done = bulk::steer(&api.store, &api.sagas, which, &verb, (&actor, &reason)).await?;
    Ok(json(StatusCode::OK, &done))
}

/// Somebody who carries out a step has come further, or to an end: the step asks again now, and not later.
pub(super) async fn look(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path((id, step)): Path<(String, String)>,
) -> Answer {
    let holder = api.access.check(&headers, Right::Tell)?;
    let actor = holder.unwrap_or(Text::from_static("participant"));
    check_text(&step).map_err(|why| invalid(&format!("the step {why}")))?;
    api.sagas.look(saga_id(&id)?, step, actor, "it asks to be looked at").await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A participant to be held, or released.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfParticipant {
    participant: Text,
    reason: Text,
    #[serde(default)]
    actor: Option<Text>,
}

impl OfParticipant {
    async fn read(api: &Api, request: Request) -> Result<(Text, Text, Text), Problem> {
        let holder = api.access.check(request.headers(), Right::Steer)?;
        let Self { participant, reason, actor } = body(request).await?;
        let actor = holder.or(actor).unwrap_or(Text::from_static("anonymous"));
        for (what, text) in [("participant", &participant), ("reason", &reason), ("actor", &actor)]
        {
            check_text(text).map_err(|why| invalid(&format!("the {what} {why}")))?;
        }
        Ok((participant, actor, reason))
    }
}

pub(super) async fn hold(State(api): State<Arc<Api>>, request: Request) -> Answer {
    let (participant, actor, reason) = OfParticipant::read(&api, request).await?;
    let is_new = api.sagas.hold(participant.clone(), actor, reason).await?;
    let is_known = is_known(&api, &participant).await;
    Ok(json(StatusCode::OK, &serde_json::json!({ "new": is_new, "known": is_known })))
}

pub(super) async fn release(State(api): State<Arc<Api>>, request: Request) -> Answer {
    let (participant, actor, reason) = OfParticipant::read(&api, request).await?;
    let was_held = api.sagas.release(&participant, actor, reason).await?;
    let is_known = was_held || is_known(&api, &participant).await;
    // What was asked for is done, whatever the store says now.
    let others = api.sagas.holds().await.ok().map(|mut holds| {
        holds.retain(|hold| hold.concerns(&participant));
        holds
    });
    let said = serde_json::json!({ "held": was_held, "known": is_known, "still_held": others });
    Ok(json(StatusCode::OK, &said))
}

/// Whether this server, one of its definitions or a saga of the store names such a participant.
async fn is_known(api: &Api, participant: &str) -> bool {
    let covered = |name: &str| Hold::would_cover(participant, name);
    if api.services.knows(participant)
        || api.definitions.all().flat_map(naming::participants).any(covered)
    {
        return true;
    }
    // What was asked for is done, whatever the store says now: no doubt is cast on it then.
    naming::named(&*api.store).await.map_or(true, |names| names.iter().any(|name| covered(name)))
}

pub(super) async fn holds(State(api): State<Arc<Api>>, headers: HeaderMap) -> Answer {
    api.access.check(&headers, Right::Read)?;
    let holds = api.sagas.holds().await?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "holds": holds })))
}

//! The routes below `/v1`.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, FromRequest as _, Path, Query, Request, State, rejection::QueryRejection,
    },
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use onewrite::{
    Code, Text, Timestamp,
    saga::{
        Checked, Definition, JSON_MAX, Json, OWN, SagaId, Sagas, Signal, State as SagaState, Verb,
        check_text,
        journal::{Journal, ListSagas},
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;

use super::{
    access::{Access, Right},
    definitions::Definitions,
    participants::Services,
    problem::Problem,
};
use crate::saga::{
    SCHEMA,
    view::{Page, View},
};

/// Bytes of a request: an input or payload of the largest size, and what stands around it.
const BODY_MAX: usize = JSON_MAX + 256 * 1024;

/// The API's own description.
const OPENAPI: &str = include_str!("openapi.json");

/// Starts on their way at most; who comes beside them is asked to come again.
pub(super) const STARTS_MAX: usize = 1_024;

/// Requests on their way at most, of any kind.
pub(super) const REQUESTS_MAX: usize = 2_048;

/// How long the body of a request may take to come.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// Sagas in one list at most, and unless it is said.
const LIMIT_MAX: usize = 1_000;
const LIMIT: usize = 50;

/// How long a start may take to be durable before nobody knows.
const STARTED_WITHIN: Duration = Duration::from_secs(30);

/// What requests are answered from.
pub(super) struct Api {
    pub(super) sagas: Sagas,
    pub(super) store: Arc<dyn Journal>,
    pub(super) services: Arc<Services>,
    pub(super) access: Access,
    pub(super) definitions: Definitions,
    /// Starts that may be on their way besides.
    pub(super) starts: Arc<Semaphore>,
    /// Requests that may be.
    pub(super) requests: Semaphore,
}

type Answer = Result<Response, Problem>;

pub(super) fn routes(api: Arc<Api>) -> Router {
    Router::new()
        .route("/v1/sagas", post(start).get(list))
        .route("/v1/sagas/{id}", get(show))
        .route("/v1/sagas/{id}/{verb}", post(steer))
        .route("/v1/sagas/{id}/steps/{step}/look", post(look))
        .route("/v1/signals", post(signal))
        .route("/v1/holds", post(hold).get(holds))
        .route("/v1/holds/release", post(release))
        .route("/v1/openapi.json", get(describe))
        .route("/v1/schema.json", get(schema))
        .fallback(nothing)
        .method_not_allowed_fallback(not_so)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(api)
}

/// Refuses who must not ask at all, and keeps what is measured from who has no token.
pub(super) async fn guard(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let (headers, path) = (request.headers(), request.uri().path());
    let checked = api.access.check_caller(headers).and_then(|()| match path {
        "/metrics" => api.access.check(headers, Right::Read).map(drop),
        _ => Ok(()),
    });
    if let Err(problem) = checked {
        return problem.into_response();
    }
    // Whoever watches over this process is answered in any case.
    let _permit = match (path, api.requests.try_acquire()) {
        ("/healthz" | "/readyz" | "/metrics", _) => None,
        (_, Ok(permit)) => Some(permit),
        (_, Err(_)) => {
            let what = format!("{REQUESTS_MAX} requests are being answered: come again");
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return Problem::new(status, Code::StoreBusy, what).into_response();
        }
    };
    next.run(request).await
}

/// A saga to be started.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    /// Whole, or the name of one that the server has.
    definition: Json,
    key: Text,
    #[serde(default)]
    input: Option<Json>,
}

#[derive(Serialize)]
struct Started {
    id: String,
    name: String,
    key: Text,
    new: bool,
}

async fn start(State(api): State<Arc<Api>>, request: Request) -> Answer {
    api.access.check(request.headers(), Right::Start)?;
    let Start { definition, key, input } = body(request).await?;
    let input = input.unwrap_or(Json::NULL);
    input.check("the saga's input")?;
    let checked = definition_of(&api, &definition)?;
    api.services.check(&checked)?;
    let name = checked.definition().name.clone();
    let started = started(&api, checked, key.clone(), input).await?;
    let status = if started.is_new { StatusCode::CREATED } else { StatusCode::OK };
    let id = started.id.to_string();
    let place = HeaderValue::from_str(&format!("/v1/sagas/{id}"));
    let mut response = json(status, &Started { id, name, key, new: started.is_new });
    if let Ok(place) = place {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

/// The definition that a start names, or brings.
fn definition_of(api: &Api, given: &Json) -> Result<Arc<Checked>, Problem> {
    if given.as_str().starts_with('"') {
        return Ok(api.definitions.find(&given.read::<String>("the definition")?)?);
    }
    let definition: Definition = serde_json::from_str(given.as_str()).map_err(|error| {
        let what = "read the definition of the saga";
        Problem::from(onewrite::Error::new(Code::InvalidSaga, what).with_source(error))
    })?;
    let flaws = definition.flaws();
    definition.check().map(Arc::new).map_err(|error| Problem::from(error).at(flaws))
}

/// Starts a saga. It goes on where whoever asked has gone, and counts until it is decided.
pub(super) async fn started(
    api: &Api,
    checked: Arc<Checked>,
    key: Text,
    input: Json,
) -> Result<onewrite::saga::Started, Problem> {
    let Ok(permit) = Arc::clone(&api.starts).try_acquire_owned() else {
        let what = format!("{STARTS_MAX} sagas are being started: come again");
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, Code::StoreBusy, what));
    };
    let sagas = api.sagas.clone();
    let starting = tokio::spawn(async move {
        let started = sagas.start_definition(checked, key, input).await;
        drop(permit);
        started
    });
    let unknown = |what: &str| onewrite::Error::new(Code::CommitUnknown, what);
    match tokio::time::timeout(STARTED_WITHIN, starting).await {
        Ok(Ok(started)) => Ok(started?),
        Ok(Err(error)) => Err(unknown("the start ended unexpectedly").with_source(error).into()),
        Err(_) => Err(unknown("the start is not durable yet: ask again with the same key").into()),
    }
}

/// Which sagas.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    name: Option<Text>,
    key: Option<Text>,
    /// States, with commas between them.
    state: Option<String>,
    started_from: Option<String>,
    started_before: Option<String>,
    behind: Option<String>,
    limit: Option<usize>,
}

impl Which {
    fn read(self) -> Result<ListSagas, Problem> {
        let Self { name, key, state, started_from, started_before, behind, limit } = self;
        for text in [&name, &key].into_iter().flatten() {
            check_text(text).map_err(|why| invalid(&format!("the name or key {why}")))?;
        }
        let limit = limit.unwrap_or(LIMIT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(invalid(&format!("`limit` is 1 to {LIMIT_MAX}")));
        }
        let states = state.iter().flat_map(|all| all.split(',')).map(|one| {
            let unknown = |_| invalid("`state` is one or more of running, compensating, needs_operator, completed and compensated, with commas between");
            SagaState::parse(one).map_err(unknown)
        });
        let behind = behind.map(|id| saga_id(&id)).transpose()?;
        let states = states.collect::<Result<_, _>>()?;
        let started_from = started_from.as_deref().map(time).transpose()?;
        let started_before = started_before.as_deref().map(time).transpose()?;
        Ok(ListSagas { name, key, states, started_from, started_before, behind, limit })
    }
}

/// A time as the API tells it.
fn time(text: &str) -> Result<Timestamp, Problem> {
    let why = "a time is written as 2026-11-29T17:00:00Z";
    let time = humantime::parse_rfc3339(text).map_err(|_| invalid(why))?;
    let since = time.duration_since(std::time::UNIX_EPOCH).map_err(|_| invalid(why))?;
    Ok(Timestamp(i64::try_from(since.as_micros()).map_err(|_| invalid(why))?))
}

async fn list(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    which: Result<Query<Which>, QueryRejection>,
) -> Answer {
    api.access.check(&headers, Right::Read)?;
    let Query(which) = which.map_err(|error| invalid(&error.body_text()))?;
    let which = which.read()?;
    let found = api.store.list(&which).await?;
    Ok(json(StatusCode::OK, &Page::of(&found, which.limit)))
}

async fn show(State(api): State<Arc<Api>>, headers: HeaderMap, Path(id): Path<String>) -> Answer {
    api.access.check(&headers, Right::Read)?;
    let saga = api.sagas.show(saga_id(&id)?).await?;
    Ok(json(StatusCode::OK, &View::of(&saga)))
}

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
    /// What is to be done, by the last part of the route.
    fn verb(&mut self, name: &str) -> Result<Verb, Problem> {
        let (step, output) = (self.step.take(), self.output.take());
        let of_step = matches!(name, "retry" | "skip");
        if step.is_some() != of_step || output.is_some() && name != "skip" {
            return Err(invalid("`step` belongs to retry and skip, and `output` to skip"));
        }
        let output = output.unwrap_or(Json::NULL);
        output.check("the step's output")?;
        Ok(match (name, step) {
            ("cancel", _) => Verb::Cancel,
            ("pause", _) => Verb::Pause,
            ("resume", _) => Verb::Resume,
            ("retry", Some(step)) => Verb::Retry { step },
            ("skip", Some(step)) => Verb::Skip { step, output },
            ("force-compensate", _) => Verb::ForceCompensate,
            ("force-complete", _) => Verb::ForceComplete,
            _ => {
                let what = "there is no such route: see /v1/openapi.json";
                return Err(Problem::new(StatusCode::NOT_FOUND, Code::NotFound, what));
            }
        })
    }
}

async fn steer(
    State(api): State<Arc<Api>>,
    Path((id, name)): Path<(String, String)>,
    request: Request,
) -> Answer {
    let holder = api.access.check(request.headers(), Right::Steer)?;
    let mut steer: Steer = body(request).await?;
    let verb = steer.verb(&name)?;
    // Whose token it is is not for the request to say.
    let actor = holder.or(steer.actor).unwrap_or(Text::from_static("anonymous"));
    for (what, text) in [("the reason", &steer.reason), ("the actor", &actor)] {
        check_text(text)
            .map_err(|why| invalid(&format!("{what} {why}; it stands in the saga's journal")))?;
    }
    api.sagas.steer(saga_id(&id)?, verb, actor, steer.reason).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Somebody who carries out a step has come further, or to an end: the step asks again now, and not later.
async fn look(
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

async fn hold(State(api): State<Arc<Api>>, request: Request) -> Answer {
    let (participant, actor, reason) = OfParticipant::read(&api, request).await?;
    let is_new = api.sagas.hold(participant, actor, reason).await?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "new": is_new })))
}

async fn release(State(api): State<Arc<Api>>, request: Request) -> Answer {
    let (participant, actor, reason) = OfParticipant::read(&api, request).await?;
    let was_held = api.sagas.release(&participant, actor, reason).await?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "held": was_held })))
}

async fn holds(State(api): State<Arc<Api>>, headers: HeaderMap) -> Answer {
    api.access.check(&headers, Right::Read)?;
    let holds = api.sagas.holds().await?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "holds": holds })))
}

/// A signal to be sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Send {
    id: Text,
    name: Text,
    correlation: Text,
    #[serde(default)]
    payload: Option<Json>,
}

async fn signal(State(api): State<Arc<Api>>, request: Request) -> Answer {
    api.access.check(request.headers(), Right::Start)?;
    let Send { id, name, correlation, payload } = body(request).await?;
    if name.starts_with(OWN) {
        // Requests and replies travel so: who may send signals may not say what an operator, or a participant, says.
        return Err(invalid("the name of a signal that begins with `onewrite.` is onewrite's own"));
    }
    let signal = Signal::new(id, name, correlation);
    let signal = match payload {
        Some(payload) => signal.payload(&payload)?,
        None => signal,
    };
    let is_new = api.sagas.signal(signal).await?;
    Ok(json(StatusCode::ACCEPTED, &serde_json::json!({ "new": is_new })))
}

async fn describe() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn schema() -> Response {
    ([(header::CONTENT_TYPE, "application/schema+json")], SCHEMA).into_response()
}

async fn nothing() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        Code::NotFound,
        "there is no such route: see /v1/openapi.json",
    )
}

async fn not_so() -> Problem {
    let what = "this route does not answer to this method: see /v1/openapi.json";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, Code::InvalidInput, what)
}

/// The body of a request, which is JSON and says so: what a page in a browser sends unasked does not.
pub(super) async fn body<T: DeserializeOwned>(request: Request) -> Result<T, Problem> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
    if !kind.trim().eq_ignore_ascii_case("application/json") {
        let what = "the request is not of the type application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidInput, what));
    }
    let read = tokio::time::timeout(BODY_WITHIN, Bytes::from_request(request, &())).await;
    let slow = |_| {
        let what = format!("the body has not come within {} s", BODY_WITHIN.as_secs());
        Problem::new(StatusCode::REQUEST_TIMEOUT, Code::InvalidInput, what)
    };
    let body = read.map_err(slow)?.map_err(|error| {
        let what = format!("the body cannot be read, or has more than {BODY_MAX} bytes");
        Problem::new(error.status(), Code::InvalidInput, what)
    })?;
    serde_json::from_slice(&body).map_err(|error| {
        let what = "the request cannot be read";
        onewrite::Error::new(Code::InvalidInput, what).with_source(error).into()
    })
}

fn saga_id(text: &str) -> Result<SagaId, Problem> {
    Ok(text.parse::<SagaId>()?)
}

fn invalid(what: &str) -> Problem {
    onewrite::Error::new(Code::InvalidInput, what).into()
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => (status, [(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => {
            let what = onewrite::Error::new(Code::Corrupt, "what is stored of it is no JSON");
            Problem::from(what.with_source(error)).into_response()
        }
    }
}

//! The routes below `/v1`.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{FromRequest as _, Path, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use onewrite::{
    Code, Shutdown, Text,
    saga::{
        Checked, Definition, Flaw, JSON_MAX, Json, OWN, SagaId, Sagas, Signal, journal::Journal,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;

use super::{
    access::{Access, Right},
    definitions::Definitions,
    end::End,
    participants::Services,
    problem::Problem,
    steer,
    which::{self, Asked},
};
use crate::saga::{
    SCHEMA, unique,
    view::{Page, View},
};

/// Bytes of a request: an input or payload of the largest size, and what stands around it.
pub(super) const BODY_MAX: usize = JSON_MAX + 256 * 1024;

/// The API's own description.
const OPENAPI: &str = include_str!("openapi.json");

/// Starts on their way at most; who comes beside them is asked to come again.
pub(super) const STARTS_MAX: usize = 1_024;

/// Requests on their way at most, of any kind.
pub(super) const REQUESTS_MAX: usize = 2_048;

/// What to do where a route is not there.
pub(super) const ROUTES: &str = "Ask for one of the routes that `GET /v1/openapi.json` describes.";

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
    pub(super) shutdown: Shutdown,
}

pub(super) type Answer = Result<Response, Problem>;

pub(super) fn routes(api: Arc<Api>) -> Router {
    Router::new()
        .route("/v1/sagas", post(start).get(list))
        .route("/v1/sagas/{id}", get(show))
        .route("/v1/sagas/{id}/{verb}", post(steer::one))
        .route("/v1/bulk/{verb}", post(steer::many))
        .route("/v1/sagas/{id}/steps/{step}/look", post(steer::look))
        .route("/v1/signals", post(signal))
        .route("/v1/holds", post(steer::hold).get(steer::holds))
        .route("/v1/holds/release", post(steer::release))
        .route("/v1/openapi.json", get(describe))
        .route("/v1/schema.json", get(schema))
        .fallback(nothing)
        .method_not_allowed_fallback(not_so)
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
    /// For how long the answer waits for the saga's end, in milliseconds.
    #[serde(default)]
    wait_ms: u64,
}

#[derive(Serialize)]
struct Started {
    id: String,
    name: String,
    key: Text,
    new: bool,
    /// How it ended, if it has while the answer waited.
    #[serde(flatten)]
    end: End,
}

async fn start(State(api): State<Arc<Api>>, request: Request) -> Answer {
    api.access.check(request.headers(), Right::Start)?;
    let Start { definition, key, input, wait_ms } = body(request).await?;
    let input = input.unwrap_or(Json::NULL);
    input.check("the saga's input")?;
    let checked = definition_of(&api, &definition)?;
    api.services.check(&checked)?;
    let name = checked.definition().name.clone();
    let started = started(&api, checked, key.clone(), input).await?;
    let status = if started.is_new { StatusCode::CREATED } else { StatusCode::OK };
    let end = End::within(&api, started.id, wait_ms).await?;
    let id = started.id.to_string();
    let place = HeaderValue::from_str(&format!("/v1/sagas/{id}"));
    let mut response = json(status, &Started { id, name, key, new: started.is_new, end });
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
    let refused = |why: &str, flaws: Vec<Flaw>| {
        let all: Vec<&str> = flaws.iter().map(|flaw| &*flaw.what).collect();
        let what = format!("{why}: {}", all.join("; "));
        Problem::from(onewrite::Error::new(Code::InvalidSaga, what)).at(flaws)
    };
    let unread = |flaws| refused("the definition of the saga cannot be read", flaws);
    let value = unique::value(given.as_str())
        .map_err(|error| unread(vec![Flaw { at: String::new(), what: error.to_string() }]))?;
    let definition = Definition::read(&value).map_err(unread)?;
    let checked = definition.check_all()?.map(Arc::new);
    checked.map_err(|flaws| refused("the saga cannot be run", flaws))
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

async fn list(State(api): State<Arc<Api>>, headers: HeaderMap, which: Asked) -> Answer {
    api.access.check(&headers, Right::Read)?;
    let which = which::read(which, LIMIT, LIMIT_MAX)?;
    let found = api.store.list(&which).await?;
    Ok(json(StatusCode::OK, &Page::of(&found, which.limit)))
}

async fn show(State(api): State<Arc<Api>>, headers: HeaderMap, Path(id): Path<String>) -> Answer {
    api.access.check(&headers, Right::Read)?;
    let saga = api.sagas.show(saga_id(&id)?).await?;
    let at = api.sagas.open_steps(&saga).await?;
    Ok(json(StatusCode::OK, &View::of(&saga).at(&at)))
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
    .with_cure(ROUTES)
}

async fn not_so() -> Problem {
    let what = "this route does not answer to this method: see /v1/openapi.json";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, Code::InvalidInput, what).with_cure(ROUTES)
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
    if body.trim_ascii_start().first() == Some(&b'[') {
        // What reads it would take its fields in the order in which they are declared.
        return Err(invalid("the request is a list, and must be an object"));
    }
    serde_json::from_slice(&body).map_err(|error| {
        let what = "the request cannot be read";
        onewrite::Error::new(Code::InvalidInput, what).with_source(error).into()
    })
}

pub(super) fn saga_id(text: &str) -> Result<SagaId, Problem> {
    Ok(text.parse::<SagaId>()?)
}

pub(super) fn invalid(what: &str) -> Problem {
    onewrite::Error::new(Code::InvalidInput, what).into()
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => (status, [(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => {
            let what = onewrite::Error::new(Code::Corrupt, "what is stored of it is no JSON");
            Problem::from(what.with_source(error)).into_response()
        }
    }
}

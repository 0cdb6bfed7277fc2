//! The routes below `/v1`.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest as _, Path, Query, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use onewrite::{
    Code, Text,
    saga::{
        Checked, Definition, JSON_MAX, Json, OWN, SagaId, Sagas, Signal, check_text,
        journal::{FindSagas, Journal},
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;

use super::{
    access::{Access, Role},
    participants::Services,
    problem::Problem,
    view::View,
};

/// Bytes of a request: an input or payload of the largest size, and what stands around it.
const BODY_MAX: usize = JSON_MAX + 256 * 1024;

/// The API's own description.
const OPENAPI: &str = include_str!("openapi.json");

/// Starts on their way at most; who comes beside them is asked to come again.
pub(super) const STARTS_MAX: usize = 1_024;

/// How long a start may take to be durable before nobody knows.
const STARTED_WITHIN: Duration = Duration::from_secs(30);

/// What requests are answered from.
pub(super) struct Api {
    pub(super) sagas: Sagas,
    pub(super) store: Arc<dyn Journal>,
    pub(super) services: Arc<Services>,
    pub(super) access: Access,
    /// Starts that may be on their way besides.
    pub(super) starts: Arc<Semaphore>,
}

type Answer = Result<Response, Problem>;

pub(super) fn routes(api: Arc<Api>) -> Router {
    Router::new()
        .route("/v1/sagas", post(start).get(find))
        .route("/v1/sagas/{id}", get(show))
        .route("/v1/sagas/{id}/cancel", post(cancel))
        .route("/v1/sagas/{id}/resume", post(resume))
        .route("/v1/signals", post(signal))
        .route("/v1/openapi.json", get(describe))
        .fallback(nothing)
        .method_not_allowed_fallback(not_so)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(api)
}

/// Refuses who must not ask at all, and keeps what is measured from who has no token.
pub(super) async fn guard(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let (headers, path) = (request.headers(), request.uri().path());
    let checked = api.access.check_caller(headers).and_then(|()| match path {
        "/metrics" => api.access.check(headers, Role::Reader).map(drop),
        _ => Ok(()),
    });
    match checked {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// A saga to be started.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    definition: Definition,
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
    api.access.check(request.headers(), Role::Starter)?;
    let Start { definition, key, input } = body(request).await?;
    let input = input.unwrap_or(Json::NULL);
    input.check("the saga's input")?;
    let checked = Arc::new(definition.check()?);
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

/// Starts a saga. It goes on where whoever asked has gone, and counts until it is decided.
async fn started(
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

/// Which saga: the last run of a name and key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    name: Text,
    key: Text,
}

async fn find(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    which: Result<Query<Which>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    api.access.check(&headers, Role::Reader)?;
    let Query(Which { name, key }) =
        which.map_err(|_| invalid("say which saga: `/v1/sagas?name=NAME&key=KEY`"))?;
    for text in [&name, &key] {
        check_text(text).map_err(|why| invalid(&format!("the name or key {why}")))?;
    }
    let what = format!("there is no saga `{name}` about `{key}`");
    let found = api.store.sagas(FindSagas::Key { name, key }).await?.pop();
    let missing = || Problem::from(onewrite::Error::new(Code::NotFound, what));
    let saga = found.ok_or_else(missing)?.readable()?;
    Ok(json(StatusCode::OK, &View::of(&saga)))
}

async fn show(State(api): State<Arc<Api>>, headers: HeaderMap, Path(id): Path<String>) -> Answer {
    api.access.check(&headers, Role::Reader)?;
    let saga = api.sagas.show(saga_id(&id)?).await?;
    Ok(json(StatusCode::OK, &View::of(&saga)))
}

/// Why somebody steers a saga, and who, where that is not known by a token.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Steer {
    #[serde(default)]
    actor: Option<Text>,
    reason: Text,
}

async fn cancel(State(api): State<Arc<Api>>, Path(id): Path<String>, request: Request) -> Answer {
    let (id, actor, reason) = steered(&api, &id, request).await?;
    api.sagas.cancel(id, actor, reason).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn resume(State(api): State<Arc<Api>>, Path(id): Path<String>, request: Request) -> Answer {
    let (id, actor, reason) = steered(&api, &id, request).await?;
    api.sagas.resume(id, actor, reason).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn steered(api: &Api, id: &str, request: Request) -> Result<(SagaId, Text, Text), Problem> {
    let holder = api.access.check(request.headers(), Role::Operator)?;
    let Steer { actor, reason } = body(request).await?;
    // Whose token it is is not for the request to say.
    let actor = holder.or(actor).unwrap_or(Text::from_static("anonymous"));
    for (what, text) in [("the reason", &reason), ("the actor", &actor)] {
        check_text(text)
            .map_err(|why| invalid(&format!("{what} {why}; it stands in the saga's journal")))?;
    }
    Ok((saga_id(id)?, actor, reason))
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
    api.access.check(request.headers(), Role::Starter)?;
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
async fn body<T: DeserializeOwned>(request: Request) -> Result<T, Problem> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
    if !kind.trim().eq_ignore_ascii_case("application/json") {
        let what = "the request is not of the type application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidInput, what));
    }
    let body = Bytes::from_request(request, &()).await.map_err(|error| {
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

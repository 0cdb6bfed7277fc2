//! The routes below `/v1`.

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use onewrite::{
    Code, Text,
    saga::{
        Definition, JSON_MAX, Json, SagaId, Sagas, Signal,
        journal::{FindSagas, Journal},
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

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

/// What requests are answered from.
pub(super) struct Api {
    pub(super) sagas: Sagas,
    pub(super) store: Arc<dyn Journal>,
    pub(super) services: Arc<Services>,
    pub(super) access: Access,
}

type Answer = Result<Response, Problem>;

pub(super) fn routes(api: Api) -> Router {
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
        .with_state(Arc::new(api))
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

async fn start(State(api): State<Arc<Api>>, headers: HeaderMap, body: Body) -> Answer {
    api.access.check(&headers, Role::Starter)?;
    let Start { definition, key, input } = read(&body.0?, "the request")?;
    let input = input.unwrap_or(Json::NULL);
    input.check("the saga's input")?;
    let checked = Arc::new(definition.check()?);
    api.services.check(&checked)?;
    let name = checked.definition().name.clone();
    let started = api.sagas.start_definition(checked, key.clone(), input).await?;
    let status = if started.is_new { StatusCode::CREATED } else { StatusCode::OK };
    let id = started.id.to_string();
    let place = HeaderValue::from_str(&format!("/v1/sagas/{id}"));
    let mut response = json(status, &Started { id, name, key, new: started.is_new });
    if let Ok(place) = place {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
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

async fn cancel(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Body,
) -> Answer {
    let (id, actor, reason) = steered(&api, &headers, &id, body)?;
    api.sagas.cancel(id, actor, reason).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn resume(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Body,
) -> Answer {
    let (id, actor, reason) = steered(&api, &headers, &id, body)?;
    api.sagas.resume(id, actor, reason).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn steered(
    api: &Api,
    headers: &HeaderMap,
    id: &str,
    body: Body,
) -> Result<(SagaId, Text, Text), Problem> {
    let holder = api.access.check(headers, Role::Operator)?;
    let Steer { actor, reason } = read(&body.0?, "the request")?;
    if reason.is_empty() {
        return Err(invalid("say why, as `reason`: it stands in the saga's journal"));
    }
    // Whose token it is is not for the request to say.
    let actor = holder.or(actor).unwrap_or(Text::from_static("anonymous"));
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

async fn signal(State(api): State<Arc<Api>>, headers: HeaderMap, body: Body) -> Answer {
    api.access.check(&headers, Role::Starter)?;
    let Send { id, name, correlation, payload } = read(&body.0?, "the request")?;
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

/// The body, or why there is none.
struct Body(Result<Bytes, Problem>);

impl<S: std::marker::Send + Sync> axum::extract::FromRequest<S> for Body {
    type Rejection = std::convert::Infallible;

    async fn from_request(
        request: axum::extract::Request,
        state: &S,
    ) -> Result<Self, Self::Rejection> {
        let body = Bytes::from_request(request, state).await;
        Ok(Self(body.map_err(|error| {
            let what = format!("the body cannot be read, or has more than {BODY_MAX} bytes");
            Problem::new(error.status(), Code::InvalidInput, what)
        })))
    }
}

fn read<T: DeserializeOwned>(body: &[u8], what: &str) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let error = onewrite::Error::new(Code::InvalidInput, format!("{what} cannot be read"))
            .with_source(error);
        error.into()
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

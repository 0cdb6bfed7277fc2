//! The door of dtm's clients: what they send to `/api/dtmsvr` for sagas and two-phase messages.
//!
//! A global transaction is a saga of the name `dtm` about its gid. Differences to dtm, all deliberate: a repeated
//! submit changes nothing, and of one that has completed it is a success; a branch that cannot be compensated is
//! held for a person in the end.
//!
//! Source: dtm's `dtmsvr/api_http.go` and `dtmsvr/trans_*.go`, version 1.18.

mod body;
mod query;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use onewrite::{
    Code, Error, Text,
    http::dtm::CHECK,
    saga::{
        Direction, Json, SagaId, SavedSaga, Started, Verb, check_text,
        journal::{FindSagas, State as Stands},
    },
};
use serde_json::{Value, json};

use self::body::Global;
use super::{
    access::Right,
    problem::{Problem, Refused},
    routes::{self, Api},
};

/// The name of the sagas that global transactions are.
const NAME: Text = Text::from_static("dtm");

/// Who steers them, in their journals.
const ACTOR: &str = "dtm";

/// How long a client may wait for a result.
const RESULT_WITHIN: Duration = Duration::from_secs(60);

type Answer = Result<Response, Problem>;

pub(super) fn routes(api: Arc<Api>) -> Router {
    let own = Router::new()
        .route("/newGid", get(new_gid))
        .route("/version", get(version))
        .route("/prepare", post(prepare))
        .route("/submit", post(submit))
        .route("/abort", post(abort))
        .route("/query", get(query::query))
        .route("/all", get(query::all))
        .layer(axum::middleware::from_fn(noted))
        .with_state(api);
    Router::new().nest("/api/dtmsvr", own)
}

/// Logs what is refused: clients of dtm show their users a status at most.
async fn noted(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    if let Some(Refused(why)) = response.extensions().get::<Refused>() {
        tracing::warn!(path, why, "a request of a client of dtm is refused");
    }
    response
}

async fn new_gid(State(api): State<Arc<Api>>, headers: HeaderMap) -> Answer {
    api.access.check(&headers, Right::Start)?;
    let gid = uuid::Uuid::now_v7().to_string();
    Ok(answer(StatusCode::OK, &json!({"gid": gid, "dtm_result": "SUCCESS"})))
}

async fn version() -> Response {
    answer(StatusCode::OK, &json!({"version": concat!("onewrite ", env!("CARGO_PKG_VERSION"))}))
}

/// Notes a message before its sender commits.
async fn prepare(State(api): State<Arc<Api>>, request: Request) -> Answer {
    api.access.check(request.headers(), Right::Start)?;
    let global = read(request).await?;
    if !global.is_message() {
        return Err(invalid("only messages are prepared here: sagas are submitted at once"));
    }
    // Whoever started it meanwhile is another sender, or the same one.
    start(&api, &global, true).await?;
    let known = find(&api, &global.gid).await?;
    Ok(match known {
        Some(known) if query::is_prepared(&known) => success(),
        Some(known) => failure(&format!("it is {}", query::status(&known))),
        None => failure("it has ended long ago"),
    })
}

/// Starts a saga; of a message, says that its sender has committed.
async fn submit(State(api): State<Arc<Api>>, request: Request) -> Answer {
    api.access.check(request.headers(), Right::Start)?;
    let global = read(request).await?;
    let known = match find(&api, &global.gid).await? {
        Some(known) => Ok(known),
        // It may be prepared, or submitted, at the same time.
        None => match start(&api, &global, false).await? {
            started if started.is_new => Err(started.id),
            started => Ok(api.sagas.show(started.id).await?),
        },
    };
    let id = match known {
        Err(started) => started,
        Ok(known) => {
            if query::trans_type(&known) != global.trans_type {
                return Ok(failure("it is a transaction of another kind"));
            }
            if let Some(refused) = submit_known(&api, &known).await? {
                return Ok(refused);
            }
            known.id
        }
    };
    if global.wait_result { result(&api, id).await } else { Ok(success()) }
}

/// What a submit of one that is known means: of a message that was prepared, that it goes on; of all others
/// nothing more. Returns the refusal, if it comes too late.
async fn submit_known(api: &Api, known: &SavedSaga) -> Result<Option<Response>, Problem> {
    match known.standing.state {
        Stands::Completed => return Ok(None),
        Stands::Compensating | Stands::Compensated => {
            return Ok(Some(failure(&format!("it is {}", query::status(known)))));
        }
        Stands::Running | Stands::NeedsOperator => {}
    }
    if !query::is_prepared(known) {
        return Ok(None);
    }
    let direction = Some(Direction::Action);
    let verb = Verb::Skip { step: Text::from_static(CHECK), output: Json::NULL, direction };
    match api.sagas.steer(known.id, verb, ACTOR, "its sender has committed").await {
        // It was asked meanwhile, and went on by itself; or back.
        Err(error) if error.code() == Code::WrongState => {
            let now = api.sagas.show(known.id).await?;
            let went_back = matches!(query::status(&now), "aborting" | "failed");
            Ok(went_back.then(|| failure("it was given up before")))
        }
        done => done.map(|()| None).map_err(Problem::from),
    }
}

/// Gives up a message that was prepared.
async fn abort(State(api): State<Arc<Api>>, request: Request) -> Answer {
    api.access.check(request.headers(), Right::Start)?;
    let global = read(request).await?;
    if !global.is_message() {
        return Err(invalid("only messages that were prepared can be given up"));
    }
    let Some(known) = find(&api, &global.gid).await? else {
        let what = format!("there is no `{}`", global.gid);
        let cure = "Check the gid: nothing was prepared or submitted under it, or it is deleted.";
        return Err(Error::new(Code::NotFound, what).with_cure(cure).into());
    };
    // What was submitted is for operators to stop.
    if !query::was_prepared(&known) {
        return Ok(failure("it was not prepared"));
    }
    match api.sagas.cancel(known.id, ACTOR, "its sender has not committed").await {
        Err(error) if error.code() == Code::WrongState => {
            let now = query::status(&api.sagas.show(known.id).await?);
            Ok(if now == "failed" { success() } else { failure(&format!("it is {now}")) })
        }
        done => done.map(|()| success()).map_err(Problem::from),
    }
}

async fn start(api: &Arc<Api>, global: &Global, prepared: bool) -> Result<Started, Problem> {
    let checked = Arc::new(global.definition(prepared)?.check()?);
    api.services.check(&checked)?;
    let key = global.gid.clone().into();
    routes::started(api, checked, key, global.input(prepared)?).await
}

/// Waits for the end, for a while.
async fn result(api: &Api, id: SagaId) -> Answer {
    let ended = tokio::time::timeout(RESULT_WITHIN, api.sagas.ended(id)).await;
    let ongoing = json!({"dtm_result": "ONGOING"});
    Ok(match ended.map_err(drop) {
        Ok(Ok(onewrite::saga::Outcome::Completed(_))) => success(),
        Ok(Ok(onewrite::saga::Outcome::Compensated)) => failure("it was compensated"),
        // It is started, and whoever asks again is told.
        Ok(Err(_)) | Err(()) => answer(StatusCode::TOO_EARLY, &ongoing),
    })
}

async fn find(api: &Api, gid: &str) -> Result<Option<SavedSaga>, Problem> {
    let find = FindSagas::Key { name: NAME, key: gid.to_owned().into() };
    let found = api.store.sagas(find).await?.pop();
    Ok(found.map(SavedSaga::readable).transpose()?)
}

async fn read(request: Request) -> Result<Global, Problem> {
    let global: Global = routes::body(request).await?;
    check_text(&global.gid).map_err(|why| invalid(&format!("the gid {why}")))?;
    if !matches!(&*global.trans_type, "saga" | "msg") {
        let what = format!(
            "`{}` is not spoken here: only saga and msg are",
            global.trans_type.escape_debug()
        );
        return Err(invalid(&what));
    }
    Ok(global)
}

fn answer(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

fn success() -> Response {
    answer(StatusCode::OK, &json!({"dtm_result": "SUCCESS"}))
}

fn failure(message: &str) -> Response {
    answer(StatusCode::CONFLICT, &json!({"dtm_result": "FAILURE", "message": message}))
}

fn invalid(what: &str) -> Problem {
    Error::new(Code::InvalidInput, what).into()
}

//! Steps of sagas that other services carry out, asked over HTTP: no SDK is needed there.
//!
//! An attempt is a `POST` of JSON. For an action the body is the step's input, for a compensation
//! `{"input": …, "output": …}`, where `output` is what the action answered, or `null` where that is not known.
//!
//! | header of the request | what it says |
//! |---|---|
//! | `idempotency-key` | the step's key in quotation marks, the same for every attempt |
//! | `traceparent` | the trace of the saga, and a span of this attempt (W3C Trace Context) |
//! | `onewrite-saga`, `onewrite-step` | whose step it is |
//! | `onewrite-direction` | `action` or `compensation` |
//! | `onewrite-attempt` | the attempt's number, from 1 |
//! | `onewrite-epoch` | the epoch of the lease under which it is made: refuse one that is older than you have seen for this saga |
//! | `onewrite-deadline-ms` | in how many milliseconds the answer comes too late |
//! | `onewrite-look` | where to `POST` an empty request once something that is in progress has ended: it is asked for again at once; missing where this side cannot be reached |
//!
//! The answer says in a header what became of it, since proxies and layers for idempotency answer with any
//! status by themselves.
//!
//! | `onewrite-outcome` | with status | what it means |
//! |---|---|---|
//! | `done` | 2xx | it is done; the body is the output, as JSON; none is `null` |
//! | `failed` | 2xx, 4xx | the business says no, for good: the body says why, as text or as `detail` of a problem (RFC 9457) |
//! | `in-progress` | 2xx | it goes on; it is asked again after `retry-after` seconds, 1 at least, with the same key, which uses up no attempt |
//! | `unknown` | any | it is asked again, with the same key |
//!
//! In the place of the header a problem may have the type `urn:onewrite:failed`, `urn:onewrite:in-progress` or
//! `urn:onewrite:unknown`. Every other answer, redirects among them, is an unknown outcome: the step is tried
//! again within its budget, and compensated afterwards.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use onewrite_core::{
    BoxFuture, Code, Error, Result,
    saga::{Call, Direction, Ended, JSON_MAX, Json, Participant},
};
use reqwest::{
    Client, Response, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::target;

/// The header that says what became of an attempt.
pub const OUTCOME: &str = "onewrite-outcome";

/// What the type of a problem begins with that says what became of an attempt.
const PROBLEM: &str = "urn:onewrite:";

/// When it is asked again how far something is, at the earliest and unless `retry-after` says so, and at the latest.
const LOOK_IN: Duration = Duration::from_secs(1);
const LOOK_IN_MAX: Duration = Duration::from_secs(3_600);

/// Characters that are told at most of a problem whose outcome is not explicit.
const EXCERPT_MAX: usize = 200;

/// How steps are asked for.
#[derive(Clone, Default)]
pub struct HttpParticipantOptions {
    /// Whether private addresses may be reached.
    pub allow_private: bool,
    /// Headers sent with each request (`authorization: Bearer …`). Their values are never printed.
    pub headers: Vec<(String, String)>,
    /// Where this side's `onewrite serve` is reached, without a slash at its end: participants are told where
    /// to say that they are done.
    pub public_url: Option<String>,
}

/// Participants over HTTP. Connections are kept and used again; redirects are not followed, and proxies named
/// in the environment are not used.
pub struct HttpParticipants {
    allow_private: bool,
    headers: HeaderMap,
    public_url: Option<Arc<str>>,
    plain: OnceLock<Client>,
    secure: OnceLock<Client>,
}

impl HttpParticipants {
    /// Participants for `options`. Nothing is connected yet.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] for a header that cannot be used.
    pub fn new(options: &HttpParticipantOptions) -> Result<Self> {
        let headers = target::fixed(&options.headers)?;
        let (plain, secure) = (OnceLock::new(), OnceLock::new());
        let public_url = options.public_url.as_deref().map(Arc::from);
        Ok(Self { allow_private: options.allow_private, headers, public_url, plain, secure })
    }

    /// The participant at this URL.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] for a URL that cannot be used, [`Code::PrivateAddress`] for a private address
    /// that is not allowed.
    pub fn at(&self, url: &str) -> Result<Arc<dyn Participant>> {
        let (client, url) = self.reach(url)?;
        let (headers, public_url) = (self.headers.clone(), self.public_url.clone());
        let from = target::shown(&url).into();
        Ok(Arc::new(HttpParticipant { client, url, from, headers, public_url }))
    }

    /// How a URL is reached, if it may be.
    pub(crate) fn reach(&self, url: &str) -> Result<(Client, Url)> {
        let url = target::parse(url, "a participant")?;
        if !self.allow_private {
            crate::address::check_host(url.host_str().unwrap_or_default())?;
        }
        Ok((self.client(url.scheme() == "https")?, url))
    }

    fn client(&self, secure: bool) -> Result<Client> {
        let known = if secure { &self.secure } else { &self.plain };
        if let Some(known) = known.get() {
            return Ok(known.clone());
        }
        let made = target::client(secure, self.allow_private, None)?;
        Ok(known.get_or_init(|| made).clone())
    }
}

struct HttpParticipant {
    client: Client,
    url: Url,
    /// The same, as it is told.
    from: Arc<str>,
    headers: HeaderMap,
    public_url: Option<Arc<str>>,
}

impl Participant for HttpParticipant {
    fn act(&self, call: Call) -> BoxFuture<'static, Ended> {
        let (from, mut all) = (Arc::clone(&self.from), self.headers.clone());
        let request = self.client.post(self.url.clone());
        if let Err(error) = headers(&call, self.public_url.as_deref(), &mut all) {
            return Box::pin(std::future::ready(Ended::Unknown(error.to_string().into())));
        }
        Box::pin(async move {
            match request.headers(all).body(body(&call)).send().await {
                Ok(response) => answered(&from, response).await,
                Err(error) => Ended::Unknown(target::failed(&from, error).error.to_string().into()),
            }
        })
    }
}

fn body(call: &Call) -> String {
    match call.direction {
        Direction::Action => call.input.as_str().to_owned(),
        Direction::Compensation => {
            let output = call.output.as_ref().map_or("null", Json::as_str);
            format!("{{\"input\":{},\"output\":{output}}}", call.input.as_str())
        }
    }
}

// The headers of an attempt, made once: there are many attempts.
static KEY: HeaderName = HeaderName::from_static("idempotency-key");
static TRACE: HeaderName = HeaderName::from_static("traceparent");
static SAGA: HeaderName = HeaderName::from_static("onewrite-saga");
static STEP: HeaderName = HeaderName::from_static("onewrite-step");
static LOOK: HeaderName = HeaderName::from_static("onewrite-look");
static DIRECTION: HeaderName = HeaderName::from_static("onewrite-direction");
static ATTEMPT: HeaderName = HeaderName::from_static("onewrite-attempt");
static EPOCH: HeaderName = HeaderName::from_static("onewrite-epoch");
static DEADLINE: HeaderName = HeaderName::from_static("onewrite-deadline-ms");

/// Adds what each attempt says.
fn headers(call: &Call, public_url: Option<&str>, headers: &mut HeaderMap) -> Result<()> {
    let direction = match call.direction {
        Direction::Action => "action",
        Direction::Compensation => "compensation",
    };
    let left = call.deadline.saturating_duration_since(Instant::now()).as_millis();
    headers.reserve(10);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(&DIRECTION, HeaderValue::from_static(direction));
    let look =
        public_url.map(|url| format!("{url}/v1/sagas/{}/steps/{}/look", call.saga, call.step));
    let texts = [
        (&KEY, Some(format!("\"{}\"", call.key.as_str()))),
        (&TRACE, Some(traceparent(call))),
        (&SAGA, Some(call.saga.to_string())),
        (&STEP, Some(call.step.to_string())),
        (&LOOK, look),
    ];
    for (name, text) in texts {
        let Some(text) = text else { continue };
        let value = HeaderValue::from_maybe_shared(Bytes::from(text)).map_err(|_| {
            Error::new(Code::InvalidInput, format!("no header can have the value of `{name}`"))
        })?;
        headers.insert(name, value);
    }
    let numbers = [(&ATTEMPT, u64::from(call.attempt)), (&EPOCH, call.epoch)];
    let left = (&DEADLINE, u64::try_from(left).unwrap_or(u64::MAX));
    for (name, number) in numbers.into_iter().chain([left]) {
        headers.insert(name, number.into());
    }
    Ok(())
}

/// All attempts of a saga are one trace, whose id is the saga's, and each is a span of its own.
fn traceparent(call: &Call) -> String {
    let digest = Sha256::digest(format!("{}/{}", call.key, call.attempt));
    let span = digest.iter().take(8).fold(0_u64, |span, byte| span << 8 | u64::from(*byte));
    format!("00-{:032x}-{span:016x}-01", call.saga.0)
}

/// Reads an answer; one that breaks off says nothing.
async fn answered(from: &str, mut response: Response) -> Ended {
    let (status, headers) = (response.status().as_u16(), std::mem::take(response.headers_mut()));
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= JSON_MAX => {
                body.extend_from_slice(&chunk);
            }
            Ok(Some(_)) => {
                let what = format!(
                    "{from} answered more than {JSON_MAX} bytes: store the large part elsewhere and answer a reference"
                );
                return Ended::Unknown(what.into());
            }
            Ok(None) => return outcome(from, status, &headers, &body),
            Err(error) => {
                return Ended::Unknown(target::failed(from, error).error.to_string().into());
            }
        }
    }
}

/// A problem (RFC 9457), as far as it is looked at.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    #[serde(rename = "type")]
    kind: Option<String>,
    title: Option<String>,
    detail: Option<String>,
}

impl Problem {
    fn of(headers: &HeaderMap, body: &[u8]) -> Option<Self> {
        let kind = headers.get(CONTENT_TYPE)?.to_str().ok()?;
        let is_one =
            kind.split(';').next()?.trim().eq_ignore_ascii_case("application/problem+json");
        if is_one { serde_json::from_slice(body).ok() } else { None }
    }

    fn reason(&self) -> Option<&str> {
        let told = [&self.detail, &self.title].into_iter().flatten();
        told.map(String::as_str).find(|text| !text.is_empty())
    }
}

/// What an answer means.
fn outcome(from: &str, status: u16, headers: &HeaderMap, body: &[u8]) -> Ended {
    let problem = Problem::of(headers, body);
    let mut all = headers.get_all(OUTCOME).into_iter();
    let said = all.next().map(|said| said.to_str().unwrap_or("?"));
    let is_torn = all.any(|other| other.to_str().ok() != said);
    let kind = problem.as_ref().and_then(|problem| problem.kind.as_deref());
    let typed = kind.and_then(|kind| kind.strip_prefix(PROBLEM));
    let unknown = |why: &str| Ended::Unknown(format!("{from} answered {status}: {why}").into());
    let told = || {
        let told = problem.as_ref().and_then(Problem::reason).map(str::to_owned);
        let told = told.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
        Some(told).filter(|told| !told.is_empty())
    };
    if is_torn {
        return unknown("it names several outcomes");
    }
    match (said.or(typed), status) {
        (Some("done"), 200..=299) if said.is_some() => {
            done(body).unwrap_or_else(|why| unknown(&why))
        }
        (Some("failed"), 200..=299 | 400..=499) => {
            Ended::Aborted(told().unwrap_or_else(|| format!("{from} said no")).into())
        }
        (Some("in-progress"), 200..=299) => {
            let reason = format!("{from} is at work").into();
            Ended::UnderWay { look_in: look_in(headers), reason }
        }
        (Some("unknown"), _) => {
            unknown(&told().unwrap_or_else(|| "it does not know what came of it".to_owned()))
        }
        (Some("done" | "failed" | "in-progress"), _) => {
            unknown("the outcome contradicts the status")
        }
        (Some(other), _) => unknown(&format!(
            "`{}` is no outcome; it is done, failed, in-progress or unknown",
            other.escape_debug()
        )),
        (None, 300..=399) => unknown("redirects are not followed"),
        (None, 200..=299) => unknown(
            "the header `onewrite-outcome` is missing, so it may have come from somebody else",
        ),
        (None, _) => {
            let said = problem.as_ref().and_then(Problem::reason).map(excerpt).unwrap_or_default();
            unknown(&format!("without the header `onewrite-outcome` it is tried again{said}"))
        }
    }
}

/// What a problem says whose outcome is not explicit. Of other answers nothing is told: they may repeat what was asked.
fn excerpt(said: &str) -> String {
    let short: String = said.chars().take(EXCERPT_MAX).collect();
    let more = if short.len() < said.len() { "…" } else { "" };
    format!("; it said: {short}{more}")
}

fn done(body: &[u8]) -> Result<Ended, String> {
    if body.trim_ascii().is_empty() {
        return Ok(Ended::Done(Json::NULL));
    }
    let text = std::str::from_utf8(body).map_err(|_| "its output is not UTF-8".to_owned())?;
    let output = Json::parse(text.to_owned(), "its output").map_err(|error| error.to_string())?;
    Ok(Ended::Done(output))
}

/// In how long to ask again.
fn look_in(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    seconds.map_or(LOOK_IN, Duration::from_secs).clamp(LOOK_IN, LOOK_IN_MAX)
}

#[cfg(test)]
mod tests {
    use onewrite_core::saga::{SagaId, StepKey};

    use super::*;

    fn call(direction: Direction) -> Call {
        let saga = SagaId(0x0196_4b2e_7d1c_7a00_8000_0123_4567_89ab);
        Call {
            saga,
            step: "charge".into(),
            key: StepKey::action(saga, "charge"),
            direction,
            attempt: 2,
            epoch: 7,
            deadline: Instant::now() + Duration::from_secs(30),
            input: Json::NULL,
            output: None,
        }
    }

    #[test]
    fn a_request_says_whose_attempt_it_is() {
        let mut all = HeaderMap::new();
        headers(&call(Direction::Action), Some("https://sagas.example"), &mut all).unwrap();
        let value = |name: &str| all[name].to_str().unwrap().to_owned();
        assert_eq!(value("idempotency-key"), "\"01964b2e-7d1c-7a00-8000-0123456789ab/charge\"");
        let trace = value("traceparent");
        assert!(trace.starts_with("00-01964b2e7d1c7a0080000123456789ab-"), "{trace}");
        assert_eq!((trace.len(), &trace[52..]), (55, "-01"));
        assert_eq!((value("onewrite-attempt"), value("onewrite-epoch")), ("2".into(), "7".into()));
        assert_eq!(value("onewrite-direction"), "action");
        let look =
            "https://sagas.example/v1/sagas/01964b2e-7d1c-7a00-8000-0123456789ab/steps/charge/look";
        assert_eq!(value("onewrite-look"), look);
        let left: u64 = value("onewrite-deadline-ms").parse().unwrap();
        assert!((29_000..=30_000).contains(&left), "{left}");
        assert_eq!(body(&call(Direction::Action)), "null");
        assert_eq!(body(&call(Direction::Compensation)), r#"{"input":null,"output":null}"#);
    }

    fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> Ended {
        let pair = |(name, value): &(&'static str, &str)| {
            (name.parse().unwrap(), HeaderValue::from_str(value).unwrap())
        };
        let mut all = HeaderMap::new();
        for (name, value) in headers.iter().map(pair) {
            all.append::<HeaderName>(name, value);
        }
        outcome("http://bank/charge", status, &all, body.as_bytes())
    }

    #[test]
    fn what_the_other_side_says_explicitly_is_believed() {
        let done = |body| answer(200, &[(OUTCOME, "done")], body);
        assert_eq!(done(r#"{"cents":1.10}"#), Ended::Done(Json::trusted(r#"{"cents":1.10}"#)));
        assert_eq!(done(" "), Ended::Done(Json::NULL));
        let no = answer(422, &[(OUTCOME, "failed")], "no money");
        assert_eq!(no, Ended::Aborted("no money".into()));
        assert_eq!(
            answer(200, &[(OUTCOME, "failed")], ""),
            Ended::Aborted("http://bank/charge said no".into())
        );
        let problem = ("content-type", "application/problem+json; charset=utf-8");
        let body = r#"{"type":"urn:onewrite:failed","title":"No","detail":"no money"}"#;
        assert_eq!(answer(409, &[problem], body), Ended::Aborted("no money".into()));
        let bare = r#"{"type":"urn:onewrite:failed","title":"No","detail":null}"#;
        assert_eq!(answer(409, &[problem], bare), Ended::Aborted("No".into()));
        let goes = answer(202, &[(OUTCOME, "in-progress"), ("retry-after", "5")], "");
        let Ended::UnderWay { look_in, .. } = goes else { panic!("{goes:?}") };
        assert_eq!(look_in, Duration::from_secs(5));
        let asks = answer(503, &[(OUTCOME, "unknown")], "my database is away");
        let why = "http://bank/charge answered 503: my database is away";
        assert_eq!(asks, Ended::Unknown(why.into()));
    }

    #[test]
    fn everything_else_is_unknown() {
        let problem = ("content-type", "application/problem+json");
        let long = format!(r#"{{"title":"{}"}}"#, "é".repeat(201));
        for (status, headers, body, why) in [
            (200, vec![], "{}", "`onewrite-outcome` is missing"),
            (204, vec![], "", "`onewrite-outcome` is missing"),
            (302, vec![("location", "http://10.0.0.1/")], "", "redirects"),
            (409, vec![], "conflict", "tried again"),
            (502, vec![problem], &long, &format!("it said: {}…", "é".repeat(200))),
            (422, vec![], "", "tried again"),
            (500, vec![], "", "tried again"),
            (500, vec![(OUTCOME, "done")], "{}", "contradicts"),
            (503, vec![(OUTCOME, "failed")], "", "contradicts"),
            (409, vec![(OUTCOME, "in-progress")], "", "contradicts"),
            (200, vec![(OUTCOME, "ok")], "{}", "`ok` is no outcome"),
            (200, vec![(OUTCOME, "done"), (OUTCOME, "failed")], "{}", "several outcomes"),
            (200, vec![(OUTCOME, "done")], "{", "is not JSON"),
            (409, vec![problem], r#"{"type":"about:blank"}"#, "tried again"),
            (200, vec![problem], r#"{"type":"urn:onewrite:done"}"#, "contradicts"),
        ] {
            let ended = answer(status, &headers, body);
            let Ended::Unknown(reason) = &ended else { panic!("{status} {headers:?}: {ended:?}") };
            assert!(reason.contains(why), "{status} {headers:?}: {reason}");
        }
    }
}

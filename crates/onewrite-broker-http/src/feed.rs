//! Receiving batches: a router that decodes requests, and the feed that hands them to an inbox.
//!
//! A request is read, verified and decoded in its own task and answered when its arrival is settled.
//! What is not settled is answered with 503, or not at all, and sent again.

use std::{
    future::ready,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::Body,
    extract::{Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
use futures::StreamExt as _;
use onewrite_core::{
    BoxFuture, Code, Delivery, Error, Incarnation, Result, Text,
    broker::{Arrival, Feed, Mark, Receipt},
    cloudevents,
};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use crate::{
    protocol,
    signature::{self, Secret, Signed},
};

/// The largest body taken unless configured otherwise, in bytes.
pub const BODY_BYTES_MAX_DEFAULT: usize = 16 * 1024 * 1024;

/// The arrivals that wait at most unless configured otherwise.
pub const QUEUE_MAX_DEFAULT: usize = 64;

/// Looks up the marks of one life of a source, usually in the inbox.
pub type MarksOf =
    Arc<dyn Fn(Text, Incarnation) -> BoxFuture<'static, Result<Vec<Mark>>> + Send + Sync>;

/// How a receiver listens.
#[derive(Clone)]
pub struct HttpFeedOptions {
    /// Requests are signed with one of these; with none, unsigned requests are taken.
    pub secrets: Vec<Secret>,
    /// The largest body taken, in bytes ([`BODY_BYTES_MAX_DEFAULT`]).
    pub body_bytes_max: usize,
    /// How many arrivals wait at most ([`QUEUE_MAX_DEFAULT`]); beyond that senders come again later.
    pub queue_max: usize,
    /// Answers senders that ask for marks; without it they are told that none are kept.
    pub marks: Option<MarksOf>,
}

impl Default for HttpFeedOptions {
    fn default() -> Self {
        Self {
            secrets: Vec::new(),
            body_bytes_max: BODY_BYTES_MAX_DEFAULT,
            queue_max: QUEUE_MAX_DEFAULT,
            marks: None,
        }
    }
}

/// A receiver: the router answers `POST /` (events) and `GET /` (marks) and can be nested at any
/// path; the feed brings what arrives. When the feed is dropped, requests are answered with 503.
pub fn receiver(options: HttpFeedOptions) -> (Router, HttpFeed) {
    let (queue, arrivals) = mpsc::channel(options.queue_max.max(1));
    let receiver = Arc::new(Receiver { options, queue });
    let router = Router::new().route("/", post(take_events).get(tell_marks)).with_state(receiver);
    (router, HttpFeed { arrivals })
}

struct Receiver {
    options: HttpFeedOptions,
    queue: mpsc::Sender<HttpArrival>,
}

/// Deliveries that come as requests.
pub struct HttpFeed {
    arrivals: mpsc::Receiver<HttpArrival>,
}

impl HttpFeed {
    /// Takes no further requests. What waits already is still handed out; then comes the end.
    pub fn close(&mut self) {
        self.arrivals.close();
    }
}

impl Feed for HttpFeed {
    fn next(&mut self) -> BoxFuture<'_, Option<Box<dyn Arrival>>> {
        Box::pin(async {
            loop {
                let arrival = self.arrivals.recv().await?;
                // A sender that no longer listens sends again; handling it now would be work twice.
                if !arrival.reply.is_closed() {
                    return Some(Box::new(arrival) as Box<dyn Arrival>);
                }
            }
        })
    }
}

struct HttpArrival {
    deliveries: Vec<Delivery>,
    count: usize,
    reply: oneshot::Sender<Vec<Receipt>>,
}

impl Arrival for HttpArrival {
    fn take(&mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.deliveries)
    }

    /// Answers the request. That the answer reaches the sender is not known here or anywhere.
    fn settle(self: Box<Self>, receipts: Vec<Receipt>) -> BoxFuture<'static, Result<()>> {
        let settled = if receipts.len() == self.count {
            if self.reply.send(receipts).is_err() {
                tracing::debug!("the sender hung up before its receipts; it sends the batch again");
            }
            Ok(())
        } else {
            Err(Error::new(
                Code::InvariantBroken,
                format!("{} receipts for {} deliveries", receipts.len(), self.count),
            ))
        };
        Box::pin(ready(settled))
    }
}

async fn take_events(State(receiver): State<Arc<Receiver>>, request: Request) -> Response {
    match receive(&receiver, request).await {
        Ok(receipts) => json(StatusCode::OK, protocol::write_receipts(&receipts)),
        Err(problem) => problem.into_response(),
    }
}

async fn receive(receiver: &Receiver, request: Request) -> Result<Vec<Receipt>, Problem> {
    let (head, body) = request.into_parts();
    let body = read(body, receiver.options.body_bytes_max).await?;
    authenticate(receiver, &head.headers, &body)?;
    let deliveries = decode(&head.headers, body, receiver.options.body_bytes_max)?;
    if deliveries.is_empty() {
        return Ok(Vec::new());
    }
    let (reply, receipts) = oneshot::channel();
    let arrival = HttpArrival { count: deliveries.len(), deliveries, reply };
    receiver.queue.try_send(arrival).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => Problem::later("the receiver is busy"),
        mpsc::error::TrySendError::Closed(_) => Problem::later("the receiver is closing"),
    })?;
    receipts.await.map_err(|_| Problem::later("the receiver did not finish the batch"))
}

/// Reads a body up to `bytes_max`. What is somewhat too large is read to its end all the same: a
/// sender that is still writing would see a broken connection instead of the answer.
async fn read(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let drain_max = bytes_max.saturating_mul(4);
    let mut stream = body.into_data_stream();
    let (mut out, mut seen) = (Vec::new(), 0_usize);
    while let Some(chunk) = stream.next().await {
        let Ok(chunk) = chunk else {
            return Err(Problem::new(StatusCode::BAD_REQUEST, None, "the body broke off"));
        };
        seen = seen.saturating_add(chunk.len());
        if seen > drain_max {
            break;
        }
        if seen > bytes_max {
            out = Vec::new();
        } else {
            out.extend_from_slice(&chunk);
        }
    }
    if seen > bytes_max {
        let detail = format!("the body is larger than {bytes_max} bytes");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, Some(Code::EventTooLarge), detail));
    }
    Ok(out.into())
}

fn authenticate(receiver: &Receiver, headers: &HeaderMap, body: &[u8]) -> Result<(), Problem> {
    let secrets = &receiver.options.secrets;
    if secrets.is_empty() {
        return Ok(());
    }
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let signed = Signed {
        id: value(signature::ID),
        timestamp: value(signature::TIMESTAMP),
        signature: value(signature::SIGNATURE),
    };
    signature::verify(secrets, signed, body, now_seconds())
        .map_err(|error| Problem::of(StatusCode::UNAUTHORIZED, &error))
}

fn decode(headers: &HeaderMap, body: Bytes, bytes_max: usize) -> Result<Vec<Delivery>, Problem> {
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let deliveries = cloudevents::decode(headers, body)
        .map_err(|error| Problem::of(StatusCode::BAD_REQUEST, &error))?;
    for (index, delivery) in deliveries.iter().enumerate() {
        delivery.record.event.check(bytes_max).map_err(|error| {
            let detail = format!("element {index} of the batch: {}", error.context());
            Problem::new(StatusCode::BAD_REQUEST, Some(error.code()), detail)
        })?;
    }
    Ok(deliveries)
}

#[derive(Deserialize)]
struct Question {
    source: String,
    incarnation: String,
}

async fn tell_marks(
    State(receiver): State<Arc<Receiver>>,
    question: Result<Query<Question>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Response {
    match marks(&receiver, question.ok().map(|Query(question)| question), &headers).await {
        Ok(marks) => json(StatusCode::OK, protocol::write_marks(&marks)),
        Err(problem) => problem.into_response(),
    }
}

async fn marks(
    receiver: &Receiver,
    question: Option<Question>,
    headers: &HeaderMap,
) -> Result<Vec<Mark>, Problem> {
    authenticate(receiver, headers, &[])?;
    let Some(marks) = &receiver.options.marks else {
        return Err(Problem::new(StatusCode::NOT_FOUND, None, "no marks are kept here"));
    };
    let wanted = "`source` and `incarnation` are wanted";
    let question = question
        .ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, Some(Code::InvalidInput), wanted))?;
    let life: Incarnation = question
        .incarnation
        .parse()
        .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, Some(Code::InvalidInput), wanted))?;
    marks(question.source.into(), life).await.map_err(|error| {
        tracing::warn!(%error, "marks cannot be read");
        Problem::of(StatusCode::SERVICE_UNAVAILABLE, &error)
    })
}

pub(crate) fn now_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn json(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Why a request is not answered with receipts, as `application/problem+json` (RFC 9457).
struct Problem {
    status: StatusCode,
    code: Option<Code>,
    detail: String,
}

impl Problem {
    fn new(status: StatusCode, code: Option<Code>, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into() }
    }

    /// The context only: causes may quote what a sender must not see.
    fn of(status: StatusCode, error: &Error) -> Self {
        Self::new(status, Some(error.code()), error.context())
    }

    fn later(detail: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, None, detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "code": self.code.map(Code::as_str),
            "detail": self.detail,
        });
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (self.status, kind, body.to_string()).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_arrival_whose_sender_hung_up_is_passed_over() {
        let (queue, arrivals) = mpsc::channel(2);
        let (hung_up, listening) = (oneshot::channel(), oneshot::channel());
        drop(hung_up.1);
        for (count, reply) in [(1, hung_up.0), (2, listening.0)] {
            let sent = queue.try_send(HttpArrival { deliveries: Vec::new(), count, reply });
            assert!(sent.is_ok());
        }
        let arrival = HttpFeed { arrivals }.next().await.unwrap();
        let receipts = vec![Receipt::Accepted, Receipt::Blocked];
        assert!(arrival.settle(receipts.clone()).await.is_ok(), "it is the second");
        assert_eq!(listening.1.await, Ok(receipts));
    }
}

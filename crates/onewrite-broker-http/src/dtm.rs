//! Steps of sagas whose services speak the dialect of dtm: branches, as its documentation calls them.
//!
//! An attempt is a `POST` of the payload, or a `GET` where there is none, with `gid`, `trans_type`, `branch_id`
//! and `op` in the query. The answer's status says what became of it, or the words `FAILURE` and `ONGOING` in its
//! body do: 2xx, it is done; 409 or `FAILURE`, the business says no, which only the action of a saga and the check
//! back of a message can; 425 or `ONGOING`, it goes on. Everything else is unknown, and it is tried again.
//!
//! Source: dtm's `client/dtmcli` and `dtmsvr`, version 1.18.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use onewrite_core::{
    BoxFuture, Result, Text,
    saga::{Call, Direction, Ended, Json, Participant, SagaId},
};
use reqwest::{
    Client, Method, Url,
    header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue,
        TRANSFER_ENCODING,
    },
};
use serde::{Deserialize, Serialize};

use crate::{participant::HttpParticipants, target};

/// The scheme of participants that speak it stands before that of their URL: `dtm+https://bank.example/out`.
pub const SCHEME: &str = "dtm+";

/// The step of a message that asks whether its sender has committed.
pub const CHECK: &str = "00";

/// Bytes of an answer that are looked at.
const ANSWER_MAX: usize = 64 * 1024;

/// What a step is given: whose branch it is, and what goes into the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch {
    /// The id of the global transaction.
    pub gid: String,
    /// `saga` or `msg`.
    pub trans_type: String,
    /// The body, which is JSON as a text; empty for none.
    #[serde(default)]
    pub payload: String,
    /// Headers that go with it.
    #[serde(default)]
    pub headers: std::collections::BTreeMap<String, String>,
    /// When it is asked again how far something is, in milliseconds.
    pub interval_ms: u64,
}

impl HttpParticipants {
    /// The participant at this URL, which speaks the dialect of dtm. The URL has no [`SCHEME`] before it.
    ///
    /// # Errors
    /// As [`HttpParticipants::at`].
    pub fn dtm_at(&self, url: &str) -> Result<Arc<dyn Participant>> {
        let (client, url) = self.reach(url)?;
        Ok(Arc::new(DtmBranch { client, url }))
    }
}

struct DtmBranch {
    client: Client,
    url: Url,
}

impl Participant for DtmBranch {
    fn act(&self, call: Call) -> BoxFuture<'static, Ended> {
        let (client, mut url) = (self.client.clone(), self.url.clone());
        let from = target::shown(&url);
        Box::pin(async move {
            let branch = match call.input.read::<Branch>("a branch of dtm") {
                Ok(branch) => branch,
                Err(error) => return Ended::Unknown(error.to_string().into()),
            };
            let interval = Duration::from_millis(branch.interval_ms.max(1));
            let is_check = &*call.step == CHECK;
            if is_check && let Some(left) = too_early(call.saga, interval, SystemTime::now()) {
                let reason = Text::from_static("its sender has time left to submit it");
                return Ended::UnderWay { look_in: left, reason };
            }
            let op = op(&call, is_check);
            url.query_pairs_mut()
                .append_pair("gid", &branch.gid)
                .append_pair("trans_type", &branch.trans_type)
                .append_pair("branch_id", &call.step)
                .append_pair("op", op);
            let method = if branch.payload.is_empty() { Method::GET } else { Method::POST };
            let request = client.request(method, url).headers(headers(&branch));
            let answer = match request.body(branch.payload).send().await {
                Ok(answer) => answer,
                Err(error) => {
                    return Ended::Unknown(target::failed(&from, error).error.to_string().into());
                }
            };
            let (status, can_say_no) = (answer.status().as_u16(), op == "msg" || op == "action");
            let can_say_no = can_say_no && (is_check || branch.trans_type == "saga");
            let body = whole(answer).await;
            outcome(&from, status, body.as_deref(), can_say_no, interval)
        })
    }
}

fn op(call: &Call, is_check: bool) -> &'static str {
    match call.direction {
        _ if is_check => "msg",
        Direction::Action => "action",
        Direction::Compensation => "compensate",
    }
}

/// How long a sender still has, before it is asked. An id tells when it was made.
fn too_early(saga: SagaId, time: Duration, now: SystemTime) -> Option<Duration> {
    let since = Duration::from_millis(u64::try_from(saga.0 >> 80).unwrap_or_default());
    let age = now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(since);
    time.checked_sub(age).filter(|left| !left.is_zero())
}

fn headers(branch: &Branch) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in &branch.headers {
        // What cannot be a header is left out, as dtm does, and so is what says where the request ends.
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse())
            && ![HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING].contains(&name)
        {
            headers.insert(name, value);
        }
    }
    headers
}

/// The body of an answer, if all of it came and it is no longer than what is looked at.
async fn whole(mut answer: reqwest::Response) -> Option<String> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.ok()? {
        if body.len() + chunk.len() > ANSWER_MAX {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    Some(String::from_utf8_lossy(&body).into_owned())
}

/// What an answer means.
///
/// One that broke off is known by its status where that alone says so, and otherwise not at all: it may have been
/// a no.
fn outcome(
    from: &str,
    status: u16,
    body: Option<&str>,
    can_say_no: bool,
    interval: Duration,
) -> Ended {
    let (is_whole, body) = (body.is_some(), body.unwrap_or_default());
    let said = || -> Text {
        let said = body.trim();
        if said.is_empty() {
            format!("{from} answered {status}").into()
        } else {
            said.to_owned().into()
        }
    };
    let is_well = (200..300).contains(&status);
    match (status, is_well) {
        (409, _) if can_say_no => Ended::Aborted(said()),
        (_, true) if body.contains("FAILURE") && can_say_no => Ended::Aborted(said()),
        (425, _) => Ended::UnderWay { look_in: interval, reason: said() },
        (_, true) if body.contains("ONGOING") => {
            Ended::UnderWay { look_in: interval, reason: said() }
        }
        (_, true) if is_whole && !body.contains("FAILURE") => Ended::Done(Json::NULL),
        _ => Ended::Unknown(format!("{from} answered {status}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_means_what_it_does_to_dtm() {
        let second = Duration::from_secs(1);
        let of = |status, body: Option<&str>, can_say_no| match outcome(
            "x", status, body, can_say_no, second,
        ) {
            Ended::Done(_) => "done",
            Ended::Aborted(_) => "no",
            Ended::UnderWay { .. } => "goes on",
            Ended::Unknown(_) => "unknown",
            Ended::NotMade(_) => "not made",
        };
        for (status, body, action, compensation) in [
            (200, "", "done", "done"),
            (200, r#"{"dtm_result":"SUCCESS"}"#, "done", "done"),
            (200, r#"{"dtm_result":"FAILURE"}"#, "no", "unknown"),
            (409, "", "no", "unknown"),
            (425, "", "goes on", "goes on"),
            (200, r#"{"dtm_result":"ONGOING"}"#, "goes on", "goes on"),
            (500, "FAILURE", "unknown", "unknown"),
            (302, "", "unknown", "unknown"),
            (404, "", "unknown", "unknown"),
        ] {
            assert_eq!(
                (of(status, Some(body), true), of(status, Some(body), false)),
                (action, compensation),
                "{status} {body}"
            );
        }
    }

    #[test]
    fn what_broke_off_may_have_been_a_no() {
        let second = Duration::from_secs(1);
        let of = |status| outcome("x", status, None, true, second);
        assert!(matches!(of(200), Ended::Unknown(_)));
        assert!(matches!(of(409), Ended::Aborted(_)));
        assert!(matches!(of(425), Ended::UnderWay { .. }));
    }

    #[test]
    fn a_sender_has_time_before_it_is_asked() {
        let (minute, now) = (Duration::from_secs(60), UNIX_EPOCH + Duration::from_secs(1_000));
        let made = |seconds: u128| SagaId((seconds * 1_000) << 80);
        assert_eq!(too_early(made(1_000), minute, now), Some(minute));
        assert_eq!(too_early(made(950), minute, now), Some(Duration::from_secs(10)));
        assert_eq!(too_early(made(940), minute, now), None);
        assert_eq!(too_early(made(1), minute, now), None);
    }
}

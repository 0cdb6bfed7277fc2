//! What a receiver answers, in JSON. Any language can speak it.
//!
//! The sender posts CloudEvents. The receiver answers, with a 2xx status, one of
//!
//! - `{"accepted": 3}`: the first three are durably accepted, the rest was not looked at;
//! - `{"results": [...]}`: one for each event, in order: `"accepted"`, `"duplicate"`, `"blocked"`,
//!   `"diverged"`, `{"retry": "why"}`, `{"refused": "why"}` or `{"gap": 41}`, the last sequence the
//!   receiver has;
//! - anything else, or nothing: all of it is accepted.
//!
//! It must keep the order: in each partition, nothing behind an event that it did not take is taken.
//! 400, 409, 413, 415, 422 and the like refuse one event; 429 and 5xx ask to come again later.
//!
//! A receiver that keeps marks answers `GET ?source=shop&incarnation=00000000000000ab` with
//! `{"marks": [[0, 41, "id of the event at 41"]]}`; 404 or 405 says that it keeps none.
//!
//! Numbers above 2^53 may be written as text, for readers that would round them.

use onewrite_core::{
    Code, Error, Result, Sequence, Text,
    broker::{Mark, Receipt},
};
use serde_json::{Value, json};

/// The longest reason kept from a receiver, in characters.
const REASON_CHARS_MAX: usize = 500;

/// Writes the reply for `receipts`.
#[must_use]
pub fn write_receipts(receipts: &[Receipt]) -> String {
    if receipts.iter().all(|receipt| *receipt == Receipt::Accepted) {
        return json!({ "accepted": receipts.len() }).to_string();
    }
    let results: Vec<Value> = receipts.iter().map(written).collect();
    json!({ "results": results }).to_string()
}

fn written(receipt: &Receipt) -> Value {
    match receipt {
        Receipt::Accepted => json!("accepted"),
        Receipt::Duplicate => json!("duplicate"),
        Receipt::Blocked => json!("blocked"),
        Receipt::Diverged => json!("diverged"),
        Receipt::Retry(why) => json!({ "retry": why.as_ref() as &str }),
        Receipt::Refused(why) => json!({ "refused": why.as_ref() as &str }),
        Receipt::Gap { have } => json!({ "gap": have }),
    }
}

/// Reads the body of a 2xx reply to `count` events.
///
/// # Errors
/// [`Code::SinkUnreachable`] when it begins like a reply of this protocol but is not one, or speaks
/// of another number of events: what happened is unknown then.
pub fn read_receipts(body: &[u8], count: usize) -> Result<Vec<Receipt>> {
    let unknown = |why: &str| {
        Error::new(Code::SinkUnreachable, format!("the receiver's reply cannot be read: {why}"))
    };
    let all = || Ok(vec![Receipt::Accepted; count]);
    let Ok(reply) = serde_json::from_slice::<Value>(body) else {
        // A cut-off object must not pass for the reply of a receiver that says nothing.
        let object = body.trim_ascii_start().starts_with(b"{");
        return if object { Err(unknown("it is not JSON")) } else { all() };
    };
    if let Some(results) = reply.get("results") {
        let results = results.as_array().ok_or_else(|| unknown("`results` is not a list"))?;
        if results.len() != count {
            return Err(unknown("`results` is not as long as the batch"));
        }
        let receipts: Option<Vec<_>> = results.iter().map(read).collect();
        return receipts.ok_or_else(|| unknown("a result is none of those documented"));
    }
    match reply.get("accepted") {
        None | Some(Value::Bool(true)) => all(),
        Some(accepted) => {
            let accepted = number(accepted).and_then(|number| usize::try_from(number).ok());
            let accepted = accepted
                .filter(|accepted| *accepted <= count)
                .ok_or_else(|| unknown("`accepted` is not a number of events of the batch"))?;
            let mut receipts = vec![Receipt::Accepted; accepted];
            receipts.resize(count, Receipt::Blocked);
            Ok(receipts)
        }
    }
}

fn read(result: &Value) -> Option<Receipt> {
    let reason = |why: &Value| -> Option<Text> {
        Some(why.as_str()?.chars().take(REASON_CHARS_MAX).collect::<String>().into())
    };
    match result {
        Value::String(text) => match text.as_str() {
            "accepted" => Some(Receipt::Accepted),
            "duplicate" => Some(Receipt::Duplicate),
            "blocked" => Some(Receipt::Blocked),
            "diverged" => Some(Receipt::Diverged),
            _ => None,
        },
        Value::Object(object) => match object.iter().next()? {
            (name, why) if name == "retry" => reason(why).map(Receipt::Retry),
            (name, why) if name == "refused" => reason(why).map(Receipt::Refused),
            (name, have) if name == "gap" => number(have).map(|have| Receipt::Gap { have }),
            _ => None,
        },
        _ => None,
    }
}

fn number(value: &Value) -> Option<Sequence> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// What a status other than 2xx says about `count` events.
///
/// # Errors
/// [`Code::SinkRefused`] when it does not speak of one event: it is about the target, about the
/// moment, or about several events of which the sender cannot tell the bad one.
pub fn read_refusal(status: u16, count: usize) -> Result<Vec<Receipt>> {
    let refused = |why: &str| Err(Error::new(Code::SinkRefused, format!("HTTP {status}{why}")));
    match status {
        300..=399 => refused(": a redirect, which is not followed; name the final address"),
        401 | 403 => refused(": the receiver does not let this sender in"),
        404 | 405 | 410 => refused(": there is no receiver at this address"),
        // Said by what stands between, or about the moment.
        402 | 406..=408 | 421 | 423..=426 | 429 | 431 => refused(""),
        400..=499 if count == 1 => Ok(vec![Receipt::Refused(format!("HTTP {status}").into())]),
        // It may be this one event that the receiver cannot handle.
        500 if count == 1 => Ok(vec![Receipt::Retry("HTTP 500".into())]),
        _ => refused(""),
    }
}

/// Writes the reply to a question for marks.
#[must_use]
pub fn write_marks(marks: &[Mark]) -> String {
    let marks: Vec<Value> = marks
        .iter()
        .map(|mark| json!([mark.partition, mark.sequence, mark.last_id.as_ref() as &str]))
        .collect();
    json!({ "marks": marks }).to_string()
}

/// Reads the reply to a question for marks; `None` when it is not one.
#[must_use]
pub fn read_marks(body: &[u8]) -> Option<Vec<Mark>> {
    let reply: Value = serde_json::from_slice(body).ok()?;
    reply.get("marks")?.as_array()?.iter().map(read_mark).collect()
}

fn read_mark(mark: &Value) -> Option<Mark> {
    let [partition, sequence, last_id] = mark.as_array()?.as_slice() else { return None };
    Some(Mark {
        partition: number(partition)?.try_into().ok()?,
        sequence: number(sequence)?,
        last_id: last_id.as_str()?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_come_back_as_they_were() {
        let receipts = vec![
            Receipt::Accepted,
            Receipt::Duplicate,
            Receipt::Retry("busy \"now\"".into()),
            Receipt::Refused("no".into()),
            Receipt::Blocked,
            Receipt::Gap { have: u64::MAX },
            Receipt::Diverged,
        ];
        let reply = write_receipts(&receipts);
        assert_eq!(read_receipts(reply.as_bytes(), 7).unwrap(), receipts);
        assert_eq!(write_receipts(&receipts[..1]), r#"{"accepted":1}"#);
    }

    #[test]
    fn a_receiver_that_says_nothing_accepts_everything() {
        for body in ["", "OK", "null", "[]", "{}", r#"{"ok":true}"#, r#"{"accepted":true}"#, "<p>"]
        {
            let receipts = read_receipts(body.as_bytes(), 2).unwrap();
            assert_eq!(receipts, vec![Receipt::Accepted; 2], "{body}");
        }
    }

    #[test]
    fn a_reply_that_cannot_be_read_is_unknown() {
        let replies = [
            r#"{"results":["accepted"]}"#,
            r#"{"results":["accepted","fine"]}"#,
            r#"{"results":["accepted",{"retry":1}]}"#,
            r#"{"results":["accepted",{}]}"#,
            r#"{"results":"accepted"}"#,
            r#"{"results":["accepted","#,
            r#"{"accepted":3}"#,
            r#"{"accepted":-1}"#,
            r#"{"accepted":false}"#,
        ];
        for body in replies {
            let error = read_receipts(body.as_bytes(), 2).unwrap_err();
            assert_eq!(error.code(), Code::SinkUnreachable, "{body}");
        }
    }

    #[test]
    fn the_rest_of_an_accepted_prefix_was_not_looked_at() {
        let receipts = read_receipts(br#"{"accepted":1}"#, 2).unwrap();
        assert_eq!(receipts, [Receipt::Accepted, Receipt::Blocked]);
    }

    #[test]
    fn a_status_speaks_of_one_event_or_of_the_target() {
        for status in [400, 409, 413, 415, 422] {
            assert!(matches!(&read_refusal(status, 1).unwrap()[..], [Receipt::Refused(_)]));
            assert_eq!(read_refusal(status, 2).unwrap_err().code(), Code::SinkRefused);
        }
        for status in [301, 302, 401, 403, 404, 405, 410, 429, 502, 503] {
            assert_eq!(read_refusal(status, 1).unwrap_err().code(), Code::SinkRefused, "{status}");
        }
        assert_eq!(read_refusal(500, 1).unwrap(), [Receipt::Retry("HTTP 500".into())]);
        assert_eq!(read_refusal(500, 2).unwrap_err().code(), Code::SinkRefused);
    }

    #[test]
    fn marks_come_back_as_they_were() {
        let marks = vec![Mark { partition: 3, sequence: 41, last_id: "e41".into() }];
        assert_eq!(read_marks(write_marks(&marks).as_bytes()), Some(marks));
        assert_eq!(read_marks(br#"{"marks":[[1,"2","x"]]}"#).unwrap()[0].sequence, 2);
        for body in ["", "{}", r#"{"marks":[[1,2]]}"#, r#"{"marks":[[70000,2,"x"]]}"#] {
            assert_eq!(read_marks(body.as_bytes()), None, "{body}");
        }
    }
}

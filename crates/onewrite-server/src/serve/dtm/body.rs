//! What dtm's clients send, as a definition and its input.

use std::collections::{BTreeMap, HashMap};

use onewrite::{
    Code, Error, Result,
    http::dtm::{CHECK, SCHEME},
    saga::{Compensation, Definition, Json, Kind, Mapping, RetryPolicy, Step, Wait},
};
use serde::{Deserialize, Deserializer};
use serde_json::json;

use super::NAME;

/// How often a compensation is tried before a person has to look: dtm never stops.
const COMPENSATIONS_MAX: u32 = 100;

/// The longest pause between two attempts.
const PAUSE_MS_MAX: u64 = 60_000;

/// Unless a client says otherwise: how long an attempt may take, when what goes on is asked again, and how long the
/// sender of a message has before it is asked.
const REQUEST_S: u64 = 10;
const INTERVAL_S: u64 = 10;

/// The body of `prepare`, `submit` and `abort`. Clients send nulls for what they do not set.
#[derive(Debug, Deserialize)]
pub(super) struct Global {
    pub(super) gid: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) trans_type: String,
    #[serde(default, deserialize_with = "or_default")]
    steps: Vec<Branch>,
    #[serde(default, deserialize_with = "or_default")]
    payloads: Vec<String>,
    /// JSON as a text.
    #[serde(default, deserialize_with = "or_default")]
    custom_data: String,
    #[serde(default, deserialize_with = "or_default")]
    query_prepared: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) wait_result: bool,
    /// Seconds, as all times here.
    #[serde(default, deserialize_with = "or_default")]
    timeout_to_fail: u64,
    #[serde(default, deserialize_with = "or_default")]
    request_timeout: u64,
    #[serde(default, deserialize_with = "or_default")]
    retry_interval: u64,
    #[serde(default, deserialize_with = "or_default")]
    retry_limit: u32,
    #[serde(default, deserialize_with = "or_default")]
    branch_headers: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    concurrent: bool,
}

#[derive(Debug, Default, Deserialize)]
struct Branch {
    #[serde(default, deserialize_with = "or_default")]
    action: String,
    #[serde(default, deserialize_with = "or_default")]
    compensate: String,
    /// The payload, of older clients.
    #[serde(default, deserialize_with = "or_default")]
    data: String,
}

/// The order of a saga's branches, each by its index from 0 with those that come before it.
#[derive(Debug, Default, Deserialize)]
struct Custom {
    #[serde(default, deserialize_with = "or_default")]
    orders: HashMap<usize, Vec<usize>>,
    #[serde(default, deserialize_with = "or_default")]
    concurrent: bool,
    /// Seconds before a message goes.
    #[serde(default, deserialize_with = "or_default")]
    delay: u64,
}

fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

impl Global {
    pub(super) fn is_message(&self) -> bool {
        self.trans_type == "msg"
    }

    /// What each step is given: see [`onewrite::http::dtm::Branch`].
    ///
    /// # Errors
    /// [`Code::InvalidInput`] where it is too large.
    pub(super) fn input(&self, prepared: bool) -> Result<Json> {
        let payloads: Vec<&str> = (0..self.steps.len()).map(|index| self.payload(index)).collect();
        let interval = or(self.retry_interval, INTERVAL_S) * 1_000;
        let check = or(self.timeout_to_fail, INTERVAL_S) * 1_000;
        let input = json!({
            "gid": self.gid, "trans_type": self.trans_type, "payloads": payloads, "none": "",
            "prepared": prepared, "headers": self.branch_headers, "interval_ms": interval, "check_ms": check,
        });
        let input = Json::of(&input, "the transaction")?;
        input.check("the transaction")?;
        Ok(input)
    }

    fn payload(&self, index: usize) -> &str {
        let older = || self.steps.get(index).map_or("", |branch| &branch.data);
        self.payloads.get(index).map_or_else(older, String::as_str)
    }

    /// What is run: a step for each branch, and of a message that was prepared one before them that asks its
    /// sender.
    ///
    /// # Errors
    /// [`Code::InvalidInput`] for what cannot be read, or has no branches.
    pub(super) fn definition(&self, prepared: bool) -> Result<Definition> {
        let invalid = |what: &str| Error::new(Code::InvalidInput, what.to_owned());
        let custom: Custom = match self.custom_data.as_str() {
            "" => Custom::default(),
            text => serde_json::from_str(text)
                .map_err(|error| invalid("read custom_data").with_source(error))?,
        };
        if self.steps.is_empty() {
            return Err(invalid("it has no steps"));
        }
        if prepared && self.query_prepared.is_empty() {
            return Err(invalid("a message that is prepared needs query_prepared"));
        }
        let mut steps = Vec::new();
        let first = if prepared { Some(CHECK.to_owned()) } else { None };
        steps.extend(first.iter().map(|_| self.check()));
        let mut before: Option<String> = first;
        if custom.orders.iter().any(|(to, from)| {
            *to >= self.steps.len() || from.iter().any(|from| *from >= self.steps.len())
        }) {
            return Err(invalid("`orders` names a branch that is not there"));
        }
        if custom.delay > 0 {
            let mut delay = plain("delay");
            delay.wait = Some(Wait::ForMs(or(custom.delay, 0) * 1_000));
            delay.kind = if self.is_message() { Kind::Retriable } else { Kind::Compensatable };
            delay.after = Some(before.iter().cloned().collect());
            before = Some(delay.name.clone());
            steps.push(delay);
        }
        let is_concurrent = self.concurrent || custom.concurrent;
        for (index, branch) in self.steps.iter().enumerate() {
            let mut step = self.step(index, branch);
            let own = custom.orders.get(&index).into_iter().flatten().map(|other| name(*other));
            let after: Vec<String> = match is_concurrent {
                true => own.chain(before.iter().cloned()).collect(),
                false if index > 0 => vec![name(index - 1)],
                false => before.iter().cloned().collect(),
            };
            step.after = Some(after);
            steps.push(step);
        }
        // The time to fail of a message is its sender's.
        let timeout_ms = (self.timeout_to_fail > 0 && !self.is_message())
            .then_some(self.timeout_to_fail.saturating_mul(1_000));
        Ok(Definition {
            name: NAME.to_string(),
            version: None,
            attributes: BTreeMap::new(),
            steps,
            output: None,
            timeout_ms,
        })
    }

    /// Asks the sender of a message whether it has committed.
    fn check(&self) -> Step {
        let mut step = plain(CHECK);
        step.action = Some(format!("{SCHEME}{}", self.query_prepared));
        self.tried(&mut step);
        step.input = Some(given("/input/none", "/input/check_ms"));
        step
    }

    fn step(&self, index: usize, branch: &Branch) -> Step {
        let mut step = plain(&name(index));
        if !branch.compensate.is_empty() && !self.is_message() {
            step.compensation = Compensation::By(format!("{SCHEME}{}", branch.compensate));
        }
        if self.is_message() {
            step.kind = Kind::Retriable;
        }
        step.input = Some(given(&format!("/input/payloads/{index}"), "/input/interval_ms"));
        if branch.action.is_empty() {
            // Nothing is to be done: that takes no time.
            step.wait = Some(Wait::ForMs(1));
        } else {
            step.action = Some(format!("{SCHEME}{}", branch.action));
            self.tried(&mut step);
        }
        step.compensation_retry =
            Some(RetryPolicy { attempts_max: Some(COMPENSATIONS_MAX), ..self.retry() });
        step
    }

    fn tried(&self, step: &mut Step) {
        step.attempt_timeout_ms = or(self.request_timeout, REQUEST_S) * 1_000;
        step.retry = Some(self.retry());
    }

    fn retry(&self) -> RetryPolicy {
        let initial_ms = or(self.retry_interval, 1).saturating_mul(1_000).min(PAUSE_MS_MAX);
        // A message goes on until it has succeeded.
        let limit = Some(self.retry_limit).filter(|limit| *limit > 0 && !self.is_message());
        RetryPolicy {
            initial_ms,
            cap_ms: PAUSE_MS_MAX,
            attempts_max: limit.map(|limit| limit.saturating_add(1)),
            ..RetryPolicy::default()
        }
    }
}

fn plain(name: &str) -> Step {
    Step::new(name, Compensation::None("dtm has none for it".into()))
}

/// Branches are numbered from 01.
fn name(index: usize) -> String {
    format!("{:02}", index + 1)
}

fn given(payload: &str, interval: &str) -> Mapping {
    let at = |name: &str, pointer: &str| (name.to_owned(), Mapping::At(pointer.to_owned()));
    Mapping::Object(BTreeMap::from([
        at("gid", "/input/gid"),
        at("trans_type", "/input/trans_type"),
        at("headers", "/input/headers"),
        at("payload", payload),
        at("interval_ms", interval),
    ]))
}

/// What a client says, unless it is nothing; at most a year, so that no sum of it is too large.
fn or(said: u64, otherwise: u64) -> u64 {
    if said == 0 { otherwise } else { said.min(365 * 24 * 3_600) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(json: &str) -> Global {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_the_client_in_python_sends_is_read() {
        let saga = global(
            r#"{"gid":"g","trans_type":"saga","custom_data":null,"query_prepared":null,"protocol":null,
            "steps":[{"action":"http://a/out","compensate":"http://a/back"},{"action":"http://a/in","compensate":""}],
            "payloads":["{\"n\":1}","{}"],"wait_result":false,"timeout_to_fail":0,"request_timeout":8,
            "retry_interval":0,"passthrough_headers":[],"branch_headers":{},"concurrent":false}"#,
        );
        let checked = saga.definition(false).unwrap().check().unwrap();
        let steps = checked.steps();
        assert_eq!(steps[0].action(), "dtm+http://a/out");
        assert_eq!(steps[0].compensated_by(), Some("dtm+http://a/back"));
        assert_eq!((steps[1].compensated_by(), checked.before(1)), (None, &[0][..]));
        assert_eq!(steps[0].attempt_timeout_ms, 8_000);
        let input: serde_json::Value = saga.input(false).unwrap().read("x").unwrap();
        assert_eq!(input["payloads"], json!(["{\"n\":1}", "{}"]));
    }

    #[test]
    fn branches_keep_the_order_that_is_told() {
        let saga = global(
            r#"{"gid":"g","trans_type":"saga","steps":[{"action":"http://a"},{"action":"http://b"},{"action":""}],
            "concurrent":true,"custom_data":"{\"orders\":{\"2\":[0,1]},\"concurrent\":true}"}"#,
        );
        let checked = saga.definition(false).unwrap().check().unwrap();
        assert_eq!(
            [0, 1, 2].map(|step| checked.before(step).to_vec()),
            [vec![], vec![], vec![0, 1]]
        );
    }

    #[test]
    fn a_message_that_is_prepared_asks_first() {
        let text = r#"{"gid":"g","trans_type":"msg","steps":[{"action":"http://a"},{"action":"http://b"}],
            "query_prepared":"http://q","custom_data":"{\"delay\":5}"}"#;
        let names = |prepared| -> Vec<String> {
            let checked = global(text).definition(prepared).unwrap().check().unwrap();
            checked.steps().iter().map(|step| step.name.clone()).collect()
        };
        assert_eq!(names(true), ["00", "delay", "01", "02"]);
        assert_eq!(names(false), ["delay", "01", "02"]);
        let unasked = global(r#"{"gid":"g","trans_type":"msg","steps":[{"action":"http://a"}]}"#);
        assert!(unasked.definition(true).is_err());
    }
}

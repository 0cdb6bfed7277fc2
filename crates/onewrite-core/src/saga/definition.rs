//! What a saga does, as data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Mapping, RetryPolicy, Wait};

/// What a saga does: its steps, in the order in which they are declared.
///
/// It is stored with the first saga that is started from it, under an id made from its text: a saga is
/// run to its end by the definition it was started with. As JSON:
///
/// ```json
/// {"name": "place_order", "steps": [
///   {"name": "reserve", "compensation": {"by": "release"}},
///   {"name": "charge", "kind": "pivot", "compensation": {"none": "a charge that failed took nothing"}},
///   {"name": "ship", "kind": "retriable", "input": ["/input", "/steps/reserve"],
///    "compensation": {"none": "it only goes forward"}}]}
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Its name: sagas are started, listed and owned under it.
    pub name: String,
    /// What people call this state of it, where several are in use: `2026-11`. Not looked at by sagas: each
    /// is run by the text it was started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What its sagas can be looked for by: names, each with where in the saga's input its value stands,
    /// `/input/customer/id`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// What it does.
    pub steps: Vec<Step>,
    /// What a completed saga answers; without it, `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Mapping>,
    /// How long after its start it is compensated, in milliseconds, unless its pivot was attempted by
    /// then; after that, an alert says so. Without it, never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// One local transaction of a saga, with its compensation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Its name, unique within the saga: a part of its idempotency key.
    pub name: String,
    /// The participant that carries it out, a name or a URL; the step's name unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Instead of carrying anything out, it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
    /// What may become of it.
    #[serde(default)]
    pub kind: Kind,
    /// What makes it good again.
    pub compensation: Compensation,
    /// The steps that must be done before it. Without it, the step declared before; empty, none: it
    /// runs from the start, in parallel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Vec<String>>,
    /// What it is given; the saga's input unless set. Its compensation is given the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Mapping>,
    /// How often the action is tried. Without it ten times, and for pivot and retriable steps, which
    /// have no other way out, any number of times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// How often the compensation is tried, before a person has to look; without it ten times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensation_retry: Option<RetryPolicy>,
    /// How long one attempt may take, in milliseconds: afterwards its outcome is unknown.
    #[serde(default = "attempt_timeout_default")]
    pub attempt_timeout_ms: u64,
    /// How long all attempts together may take, in milliseconds; without it, as long as the saga. Of a
    /// step that waits for a signal, how long it waits at most; required there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_timeout_ms: Option<u64>,
}

/// One attempt takes 30 seconds at most, unless the definition says otherwise.
const ATTEMPT_TIMEOUT_MS_DEFAULT: u64 = 30_000;

fn attempt_timeout_default() -> u64 {
    ATTEMPT_TIMEOUT_MS_DEFAULT
}

/// What may become of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It may fail, and can be made good while the saga has not passed its pivot.
    #[default]
    Compensatable,
    /// It decides: should it fail, what came before is compensated; once it is done, the saga only
    /// goes forward. At most one. Its compensation runs should it fail, for an earlier attempt with an
    /// unknown outcome may still take effect; without one, its no must be final for its key.
    Pivot,
    /// It comes after the decision, so it is tried until it succeeds.
    Retriable,
}

/// What makes a step good again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compensation {
    /// This participant does: a name or a URL.
    By(String),
    /// Nothing does, because of this reason.
    None(String),
}

impl Step {
    /// A compensatable step with the defaults.
    pub fn new(name: impl Into<String>, compensation: Compensation) -> Self {
        Self {
            name: name.into(),
            action: None,
            wait: None,
            kind: Kind::default(),
            compensation,
            after: None,
            input: None,
            retry: None,
            compensation_retry: None,
            attempt_timeout_ms: ATTEMPT_TIMEOUT_MS_DEFAULT,
            step_timeout_ms: None,
        }
    }

    /// The participant that carries out the action.
    #[must_use]
    pub fn action(&self) -> &str {
        self.action.as_deref().unwrap_or(&self.name)
    }

    /// The participant that compensates it, if any does.
    #[must_use]
    pub fn compensated_by(&self) -> Option<&str> {
        match &self.compensation {
            Compensation::By(participant) => Some(participant),
            Compensation::None(_) => None,
        }
    }

    /// What the signal that it waits for is about.
    #[must_use]
    pub fn correlation(&self) -> Option<&Mapping> {
        match &self.wait {
            Some(Wait::Signal { correlation, .. }) => Some(correlation),
            Some(Wait::ForMs(_)) | None => None,
        }
    }

    /// How often the action is tried.
    #[must_use]
    pub fn retry(&self) -> RetryPolicy {
        self.retry.clone().unwrap_or_else(|| match self.kind {
            Kind::Compensatable => RetryPolicy::default(),
            Kind::Pivot | Kind::Retriable => RetryPolicy::forever(),
        })
    }

    /// How often the compensation is tried.
    #[must_use]
    pub fn compensation_retry(&self) -> RetryPolicy {
        self.compensation_retry.clone().unwrap_or_default()
    }
}

//! The sagas of the simulated world.

use std::sync::Arc;

use onewrite_core::saga::{Checked, Definition};

/// A way to three attempts, and to any number.
const FEW: &str = r#"{"initial_ms":5,"cap_ms":40,"attempts_max":3}"#;
const MANY: &str = r#"{"initial_ms":5,"cap_ms":60,"attempts_max":null}"#;

/// Steps one after the other, with a decision, and one that only goes forward.
const LINE: &str = r#"{"name":"line","steps":[
    {"name":"a","compensation":{"by":"-a"},"retry":FEW,"compensation_retry":FEW,"attempt_timeout_ms":60},
    {"name":"look","compensation":{"none":"it only looks"},"retry":FEW,"attempt_timeout_ms":60},
    {"name":"pivot","kind":"pivot","compensation":{"none":"its no is final"},"retry":MANY,"attempt_timeout_ms":60},
    {"name":"r","kind":"retriable","compensation":{"none":"forward only"},"retry":FEW,"attempt_timeout_ms":60}]}"#;

/// Branches beside one another, and one step behind two of them.
const FORK: &str = r#"{"name":"fork","steps":[
    {"name":"a","compensation":{"by":"-a"},"retry":FEW,"compensation_retry":FEW,"attempt_timeout_ms":60},
    {"name":"b","after":["a"],"compensation":{"by":"-b"},"retry":FEW,"compensation_retry":FEW,"attempt_timeout_ms":60},
    {"name":"c","after":["a"],"compensation":{"by":"-c"},"retry":FEW,"compensation_retry":FEW,"attempt_timeout_ms":60,"step_timeout_ms":150},
    {"name":"d","after":["a"],"compensation":{"by":"-d"},"retry":FEW,"compensation_retry":FEW,"attempt_timeout_ms":60},
    {"name":"e","after":["b","c"],"compensation":{"by":"-e"},"retry":FEW,"compensation_retry":FEW,"attempt_timeout_ms":60}]}"#;

/// A signal before the decision, which can be made good, and a sleep behind it.
const GATED: &str = r#"{"name":"gated","steps":[
    {"name":"a","compensation":{"by":"-a"},"retry":FEW,"compensation_retry":FEW,"attempt_timeout_ms":60},
    {"name":"signal","wait":{"signal":{"name":"paid","correlation":"/input/about"}},"compensation":{"none":"waits"},"step_timeout_ms":300},
    {"name":"pivot","kind":"pivot","compensation":{"by":"-pivot"},"retry":MANY,"compensation_retry":FEW,"attempt_timeout_ms":60},
    {"name":"sleep","kind":"retriable","wait":{"for_ms":70},"compensation":{"none":"waits"}},
    {"name":"r","kind":"retriable","compensation":{"none":"forward only"},"retry":MANY,"attempt_timeout_ms":60}]}"#;

/// A signal behind the decision, beside another step: without it a person has to look.
const HELD: &str = r#"{"name":"held","steps":[
    {"name":"pivot","kind":"pivot","compensation":{"none":"its no is final"},"retry":MANY,"attempt_timeout_ms":60},
    {"name":"signal","after":["pivot"],"kind":"retriable","wait":{"signal":{"name":"paid","correlation":"/input/about"}},"compensation":{"none":"waits"},"step_timeout_ms":200},
    {"name":"r","after":["pivot"],"kind":"retriable","compensation":{"none":"forward only"},"retry":MANY,"attempt_timeout_ms":60}]}"#;

/// A deadline, which sleeps come near to.
const SHORT: &str = r#"{"name":"short","timeout_ms":260,"steps":[
    {"name":"a","compensation":{"by":"-a"},"retry":FEW,"compensation_retry":FEW,"attempt_timeout_ms":60},
    {"name":"sleep","wait":{"for_ms":120},"compensation":{"none":"waits"}},
    {"name":"b","compensation":{"by":"-b"},"retry":FEW,"compensation_retry":FEW,"attempt_timeout_ms":60},
    {"name":"c","compensation":{"by":"-c"},"retry":FEW,"compensation_retry":FEW,"attempt_timeout_ms":60},
    {"name":"r","kind":"retriable","compensation":{"none":"forward only"},"retry":MANY,"attempt_timeout_ms":60}]}"#;

/// Steps that are committed with what journals them, between others.
const STORED: &str = r#"{"name":"stored","steps":[
    {"name":"t","compensation":{"by":"-t"},"retry":FEW,"compensation_retry":FEW,"attempt_timeout_ms":60},
    {"name":"u","after":[],"compensation":{"by":"-u"},"retry":FEW,"compensation_retry":FEW,"attempt_timeout_ms":60},
    {"name":"b","after":["t","u"],"compensation":{"by":"-b"},"retry":FEW,"compensation_retry":FEW,"attempt_timeout_ms":60},
    {"name":"t-pivot","kind":"pivot","compensation":{"none":"it decides in its transaction"},"retry":MANY,"attempt_timeout_ms":60},
    {"name":"t-r","kind":"retriable","compensation":{"none":"forward only"},"retry":MANY,"attempt_timeout_ms":60}]}"#;

/// Participants outside of the store.
pub(super) const ELSEWHERE: &[&str] =
    &["a", "-a", "b", "-b", "c", "-c", "d", "-d", "e", "-e", "look", "pivot", "-pivot", "r"];

/// Participants in transactions of the store.
pub(super) const STORED_ONES: &[&str] = &["t", "-t", "u", "-u", "t-pivot", "t-r"];

/// Every shape.
pub(super) fn all() -> Vec<Arc<Checked>> {
    let of = |json: &str| {
        let json = json.replace("FEW", FEW).replace("MANY", MANY);
        Arc::new(Definition::parse(&json).expect("a definition"))
    };
    [LINE, FORK, GATED, HELD, SHORT, STORED].map(of).to_vec()
}

/// Whether this step's effect is committed with what journals it.
pub(super) fn is_stored(step: &str) -> bool {
    STORED_ONES.contains(&step)
}

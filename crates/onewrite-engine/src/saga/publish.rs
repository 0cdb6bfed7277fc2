//! What others are told of a saga: an event for each step that is done or compensated, and one for its end,
//! in the commit that journals it.

use onewrite_core::{
    Event, Result, Text,
    saga::{Entry, Json, Phase, Saga},
    store::Op,
};
use serde::Serialize;

/// Bytes of an output that an event brings: above it says what happened, and the output is read from the saga.
const OUTPUT_MAX: usize = 64 * 1024;

/// What the events are about.
const AGGREGATE: Text = Text::from_static("Saga");

/// The data of an event, as JSON.
#[derive(Serialize)]
struct Told<'a> {
    saga: String,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// The events of a transition that made `saga` what it is.
///
/// # Errors
/// [`onewrite_core::Code::InvalidEvent`], which they are not.
pub(super) fn events(saga: &Saga, entries: &[Entry]) -> Result<Vec<Op>> {
    let name = &*saga.checked().definition().name;
    let id = saga.id().to_string();
    let told = |step, output: Option<_>, reason| {
        let output = output.filter(|output: &&Json| output.as_str().len() <= OUTPUT_MAX);
        Told { saga: id.clone(), name, step, output, reason }
    };
    let emit = |kind: String, told: Told<'_>| -> Result<Op> {
        let event = Event::new(kind, AGGREGATE, id.clone()).correlation_id(id.clone());
        Ok(Op::Emit(Box::new(event.json(&told)?)))
    };
    let mut ops = Vec::new();
    for entry in entries {
        let (step, word, output, reason) = match entry {
            Entry::Done { step, output, .. } | Entry::Signalled { step, output, .. } => {
                (step, "Completed", Some(output), None)
            }
            Entry::Failed { step, reason, .. } => (step, "Failed", None, Some(&**reason)),
            Entry::Compensated { step, .. } => (step, "Compensated", None, None),
            Entry::Skipped { step, output, reason, .. } => {
                (step, "Skipped", Some(output), Some(&**reason))
            }
            _ => continue,
        };
        ops.push(emit(format!("{step}.{word}"), told(Some(&**step), output, reason))?);
    }
    let end = match saga.phase() {
        Phase::Completed => "Completed",
        Phase::Compensated => "Compensated",
        Phase::Forward | Phase::Compensating => return Ok(ops),
    };
    let output = saga.standing().output.as_ref();
    ops.push(emit(format!("{name}.{end}"), told(None, output, None))?);
    Ok(ops)
}

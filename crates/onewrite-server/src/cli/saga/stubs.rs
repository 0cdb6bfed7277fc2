//! What stands in, while a definition is tried, for services and for whoever sends signals.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use clap::Args;
use onewrite::{
    BoxFuture, Code, Error, Result,
    saga::{Call, Checked, Ended, Json, Participant, Wait},
};

use super::json_of;
use crate::serve::participants::{ParticipantArgs, Services};

/// Which steps nobody carries out.
#[derive(Debug, Args)]
pub(crate) struct StubArgs {
    /// A step that a stub stands in for, whoever carries it out, and what it answers, as JSON; without that, what it was
    /// given. A stub stands in as well for each participant that is neither named nor a URL. May be given several times.
    #[arg(long, value_name = "STEP[=JSON]")]
    stub: Vec<String>,
    /// Stubs stand in for all participants: nobody is asked.
    #[arg(long)]
    stub_all: bool,
}

/// Who carries out each action and compensation: a service, or a stub.
pub(super) fn participants(
    checked: &Checked,
    named: &ParticipantArgs,
    args: &StubArgs,
) -> Result<BTreeMap<String, Arc<dyn Participant>>> {
    let services = Services::new(named, None)?;
    let outputs = Arc::new(outputs(&args.stub, checked)?);
    let mut found: BTreeMap<String, Option<Arc<dyn Participant>>> = BTreeMap::new();
    for step in checked.steps() {
        let is_stub = args.stub_all || outputs.contains_key(&step.name);
        let action = Some(step.action()).filter(|_| step.wait.is_none());
        for name in [action, step.compensated_by()].into_iter().flatten() {
            let inner = found.entry(name.to_owned()).or_default();
            // Whom a stub stands in for need not be one that can be asked from here.
            if !is_stub && inner.is_none() {
                *inner = services.at(name).transpose()?;
            }
        }
    }
    let stub = |inner| Arc::new(Stub { outputs: Arc::clone(&outputs), inner }) as _;
    Ok(found.into_iter().map(|(name, inner)| (name, stub(inner))).collect())
}

/// What stubs answer, by step, where that is said.
type Outputs = HashMap<String, Option<Json>>;

fn outputs(all: &[String], checked: &Checked) -> Result<Outputs> {
    let mut outputs = HashMap::new();
    for text in all {
        let (step, output) = match text.split_once('=') {
            Some((step, output)) => (step, Some(output)),
            None => (&**text, None),
        };
        if checked.index_of(step).is_none() {
            let what = format!(
                "--stub is STEP or STEP=JSON, with a step of the definition: `{}`",
                text.escape_debug()
            );
            return Err(Error::new(Code::InvalidInput, what));
        }
        let output = output.map(|output| json_of(output, "the stub's answer")).transpose()?;
        outputs.insert(step.to_owned(), output);
    }
    Ok(outputs)
}

/// Stands in for a participant at some steps, or at all where there is none: answers the same to each attempt, and does
/// nothing.
struct Stub {
    outputs: Arc<Outputs>,
    inner: Option<Arc<dyn Participant>>,
}

impl Participant for Stub {
    fn act(&self, call: Call) -> BoxFuture<'static, Ended> {
        let said = match (self.outputs.get(&*call.step), &self.inner) {
            (None, Some(inner)) => return inner.act(call),
            (said, _) => said.cloned().flatten().unwrap_or(call.input),
        };
        Box::pin(std::future::ready(Ended::Done(said)))
    }
}

/// What the signals bring that steps wait for, by name.
///
/// # Errors
/// [`Code::InvalidInput`] where a step waits for one that is not given: it would wait in vain in every run. And for one
/// that no step waits for.
pub(super) fn signals(checked: &Checked, given: &[String]) -> Result<BTreeMap<String, Json>> {
    let refused = |what: String| Err(Error::new(Code::InvalidInput, what));
    let mut brings = BTreeMap::new();
    for text in given {
        let Some((name, payload)) = text.split_once('=') else {
            return refused(format!("--signal is NAME=JSON: `{}`", text.escape_debug()));
        };
        brings.insert(name.to_owned(), json_of(payload, "what the signal brings")?);
    }
    let awaited = checked.steps().iter().filter_map(|step| match &step.wait {
        Some(Wait::Signal { name, .. }) => Some((step, name)),
        Some(Wait::ForMs(_)) | None => None,
    });
    let awaited: Vec<_> = awaited.collect();
    if let Some((step, name)) = awaited.iter().find(|(_, name)| !brings.contains_key(*name)) {
        return refused(format!(
            "the step `{}` waits for the signal `{name}`, which nobody sends: say what it brings with --signal {name}=JSON",
            step.name
        ));
    }
    match brings.keys().find(|given| awaited.iter().all(|(_, name)| name != given)) {
        Some(name) => {
            refused(format!("--signal is for `{}`, which no step waits for", name.escape_debug()))
        }
        None => Ok(brings),
    }
}

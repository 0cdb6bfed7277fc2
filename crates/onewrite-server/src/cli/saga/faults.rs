//! `onewrite saga test FILE`: everything that can go wrong at each step does, one thing in each run.

use std::{
    collections::HashMap,
    path::PathBuf,
    process::{ExitCode, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use clap::Args;
use onewrite::{
    BoxFuture, Result,
    saga::{Call, Direction, Ended, Json, Participant, SagaRunner, StepKey, TurnedBack},
};
use onewrite_testkit::saga::{Caught, EveryFault, Fault, Ran};
use serde_json::{Value, json};

use super::{
    files, json_of,
    stubs::{self, StubArgs},
};
use crate::{report, serve::participants::ParticipantArgs};

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// A file with the definition, YAML or JSON; - is standard input.
    file: PathBuf,
    /// What the saga is given, as JSON; @FILE holds it, and - is standard input.
    #[arg(long, default_value = "null")]
    input: String,
    #[command(flatten)]
    participants: ParticipantArgs,
    #[command(flatten)]
    stubs: StubArgs,
    /// What a signal brings, by its name: it is sent to each step that waits for it, about what it waits for. May be
    /// given several times.
    #[arg(long, value_name = "NAME=JSON")]
    signal: Vec<String>,
    /// A command that looks at the services after each run, and fails when something is there that should not be, or
    /// is not there: ONEWRITE_STATE says how the saga ended, ONEWRITE_SAGA which one it was, ONEWRITE_STEP and
    /// ONEWRITE_FAULT what went wrong.
    #[arg(long)]
    check: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs all and prints what came of each; fails when anything was caught.
pub(crate) async fn test(args: TestArgs) -> Result<ExitCode> {
    let checked = files::definition(&args.file)?;
    let input = json_of(&args.input, "the saga's input")?;
    input.check("the saga's input")?;
    let found = stubs::participants(&checked, &args.participants, &args.stubs)?;
    let faults = stubs::signals(&checked, &args.signal)?
        .into_iter()
        .fold(EveryFault::default(), |faults, (name, brings)| faults.answer(name, brings));
    let mut runs = Vec::new();
    let seen = Arc::new(Seen::default());
    let serve = |runner: SagaRunner| {
        found.iter().fold(runner, |runner, (name, inner)| {
            let (inner, seen) = (Arc::clone(inner), Arc::clone(&seen));
            runner.participant(name.clone(), Arc::new(Watched { inner, seen }))
        })
    };
    let told = async |ended: Result<Ran<Json>, Caught>| {
        let run = Run::of(ended, &seen, args.check.as_deref()).await;
        if !args.json {
            report::tell!("{}", report::plain(&run.sentence()));
        }
        runs.push(run);
        // Where it does not complete by itself, nothing is learnt of what else may happen.
        runs.len() > 1 || runs.iter().all(|run| run.wrong.is_none())
    };
    faults.run_definition(&checked, &serve, &input, told).await;
    let caught = runs.iter().filter(|run| run.wrong.is_some()).count();
    if args.json {
        report::json(
            &json!({"runs": runs.iter().map(Run::to_json).collect::<Value>(), "caught": caught}),
        );
    } else {
        report::say!(
            "{}",
            report::table(
                ["step", "what went wrong", "ended", "caught"],
                runs.iter().map(Run::row)
            )
        );
        report::say!("{} runs, {caught} caught", runs.len());
        if args.check.is_none() && caught == 0 {
            report::tell!("without --check, what the services did was not looked at");
        }
    }
    Ok(if caught == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One run.
struct Run {
    step: String,
    fault: String,
    /// How the saga ended, if it did.
    ended: Option<&'static str>,
    /// What is wrong.
    wrong: Option<String>,
}

impl Run {
    async fn of(ended: Result<Ran<Json>, Caught>, seen: &Seen, check: Option<&str>) -> Self {
        let contradiction = seen.take();
        match ended {
            Ok(ran) if ran.fault == Fault::None && !ran.is_completed() => {
                let why = ran.why.as_ref().map(turned_back).unwrap_or_default();
                let wrong = format!("nothing went wrong, and it is not completed{why}");
                let (step, fault) = (ran.step, ran.fault.to_string());
                Self { step, fault, ended: Some("compensated"), wrong: Some(wrong) }
            }
            Ok(ran) => {
                let state = if ran.is_completed() { "completed" } else { "compensated" };
                let checked = match check {
                    Some(command) => checked(command, &ran, state).await,
                    None => None,
                };
                let (step, fault) = (ran.step, ran.fault.to_string());
                Self { step, fault, ended: Some(state), wrong: contradiction.or(checked) }
            }
            Err(caught) => {
                let what = contradiction.unwrap_or(caught.what);
                let (step, fault) = (caught.step, caught.fault.to_string());
                Self { step, fault, ended: None, wrong: Some(what) }
            }
        }
    }

    fn sentence(&self) -> String {
        let of = if self.step.is_empty() { String::new() } else { format!("`{}`: ", self.step) };
        let ended = self.ended.unwrap_or("has not ended");
        match &self.wrong {
            Some(wrong) => format!("{of}{}: {ended}: {wrong}", self.fault),
            None => format!("{of}{}: {ended}", self.fault),
        }
    }

    fn row(&self) -> [String; 4] {
        let ended = self.ended.unwrap_or("not").to_owned();
        [self.step.clone(), self.fault.clone(), ended, self.wrong.clone().unwrap_or_default()]
    }

    fn to_json(&self) -> Value {
        json!({"step": self.step, "fault": self.fault, "ended": self.ended, "caught": self.wrong})
    }
}

fn turned_back(TurnedBack { step, reason }: &TurnedBack) -> String {
    match step {
        Some(step) => format!(": `{step}` failed: {reason}"),
        None => format!(": {reason}"),
    }
}

/// What the user's command says against it.
async fn checked(command: &str, ran: &Ran<Json>, state: &str) -> Option<String> {
    let mut shell = tokio::process::Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::null());
    shell.env("ONEWRITE_STATE", state).env("ONEWRITE_SAGA", ran.saga.to_string());
    shell.env("ONEWRITE_STEP", &ran.step).env("ONEWRITE_FAULT", ran.fault.to_string());
    match shell.output().await {
        Ok(done) if done.status.success() => None,
        Ok(done) => {
            let said = [done.stdout, done.stderr].concat();
            let said = String::from_utf8_lossy(&said).trim().to_owned();
            Some(if said.is_empty() { format!("the check failed: {}", done.status) } else { said })
        }
        Err(error) => Some(format!("the check cannot be run: {error}")),
    }
}

/// What was answered under each key, and the first contradiction.
#[derive(Default)]
struct Seen(Mutex<Answered>);

/// What was answered in one run.
#[derive(Default)]
struct Answered {
    known: Answers,
    contradiction: Option<String>,
}

/// Done with an output, or no for a reason.
type Answers = HashMap<StepKey, Result<Json, String>>;

impl Seen {
    /// An answer under a key that was answered before has to be the same.
    fn note(&self, call: &Call, ended: &Ended) {
        let now = match ended {
            // What a compensation answers goes nowhere.
            Ended::Done(_) if call.direction == Direction::Compensation => Ok(Json::NULL),
            Ended::Done(output) => Ok(output.clone()),
            Ended::Aborted(reason) => Err(reason.to_string()),
            Ended::Unknown(_) | Ended::NotMade(_) | Ended::UnderWay { .. } => return,
        };
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Answered { known, contradiction } = &mut *seen;
        let Some(before) = known.get(&call.key) else {
            known.insert(call.key.clone(), now);
            return;
        };
        let said = match (before, &now) {
            (Ok(before), Ok(now)) if before != now => {
                format!("it answered {} and then {}", before.as_str(), now.as_str())
            }
            (Ok(_), Err(reason)) => format!("it was done, and then said no: {reason}"),
            (Err(reason), Ok(_)) => format!("it said no ({reason}), and then was done"),
            _ => return,
        };
        let wrong = format!("`{}` is not idempotent: under one key {said}", call.step);
        contradiction.get_or_insert(wrong);
    }

    /// The contradiction of a run, which is over.
    fn take(&self) -> Option<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).contradiction
    }
}

/// A participant whose answers are noted.
struct Watched {
    inner: Arc<dyn Participant>,
    seen: Arc<Seen>,
}

impl Participant for Watched {
    fn act(&self, call: Call) -> BoxFuture<'static, Ended> {
        let (inner, seen) = (Arc::clone(&self.inner), Arc::clone(&self.seen));
        Box::pin(async move {
            let ended = inner.act(call.clone()).await;
            seen.note(&call, &ended);
            ended
        })
    }
}

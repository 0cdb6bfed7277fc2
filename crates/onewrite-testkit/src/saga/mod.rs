//! Tests a saga of yours: everything that can go wrong at a step does, one thing in each run.
//!
//! What it guarantees: each step fails, is repeated, hangs, and loses its process before and after its effect;
//! each compensation is made twice, and once before a late attempt of its action; your check is asked after
//! each. What it does not: that steps are right together with other sagas, or that two faults at once are
//! borne. Runs are short: pauses and sleeps are cut, and only the attempt that hangs is given up early.
//!
//! A participant that recognises a repetition by its key passes:
//!
//! ```
//! use std::{collections::BTreeMap, sync::{Arc, Mutex}};
//! use onewrite_engine::saga::{Cx, Finished, Outcome, Plan, Retry, SagaType, StepResult};
//! use onewrite_testkit::saga::{Ran, every_fault};
//!
//! /// What a bank has charged, by key; nothing, once it was given back.
//! #[derive(Default)]
//! struct Bank { charged: Mutex<BTreeMap<String, u32>> }
//!
//! fn buy(mut plan: Plan<Bank, u32>) -> Finished<Bank, u32, u32> {
//!     let cents = plan.input();
//!     let charge = plan.step("charge", cents, charge).compensate(refund);
//!     plan.finish(charge)
//! }
//! async fn charge(cx: Cx<Bank>, cents: u32) -> StepResult<u32> {
//!     // A key that is there already is left as it is: charged, or refunded before it was charged.
//!     Ok(*cx.charged.lock().unwrap().entry(cx.saga().to_string()).or_insert(cents))
//! }
//! async fn refund(cx: Cx<Bank>, _: u32, _: Option<u32>) -> Result<(), Retry> {
//!     cx.charged.lock().unwrap().insert(cx.saga().to_string(), 0);
//!     Ok(())
//! }
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let saga = SagaType::plan("buy", buy)?;
//! let report = every_fault(&saga, async || Arc::new(Bank::default()), &42, async |bank, ran: &Ran<u32>| {
//!     let charged: u32 = bank.charged.lock().unwrap().values().sum();
//!     let wanted = if ran.is_completed() { 42 } else { 0 };
//!     if charged == wanted { Ok(()) } else { Err(format!("{charged} charged, not {wanted}")) }
//! })
//! .await?;
//! assert_eq!(report.runs.len(), 8); // one without a fault, and seven at one step
//! # Ok(()) }
//! ```

mod fault;
mod interposed;
mod run;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use onewrite_core::{
    Error, Text,
    saga::{Checked, Definition, Json, SagaId, Signal, TurnedBack, journal::Journal},
};
use onewrite_engine::saga::{Outcome, SagaRunner, SagaType};
use serde::{Serialize, de::DeserializeOwned};

pub use self::fault::Fault;
use self::{fault::last_to_fail, interposed::Blow};

/// How long a run may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How one run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran<O> {
    /// What went wrong.
    pub fault: Fault,
    /// At which step; empty where nothing went wrong.
    pub step: String,
    /// The saga.
    pub saga: SagaId,
    /// How it ended.
    pub outcome: Outcome<O>,
    /// What turned it back, where it was compensated.
    pub why: Option<TurnedBack>,
}

impl<O> Ran<O> {
    /// Whether every step is done. Otherwise, everything is compensated.
    #[must_use]
    pub fn is_completed(&self) -> bool {
        matches!(self.outcome, Outcome::Completed(_))
    }
}

/// Every run, as step, fault, and whether the saga was completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// In the order in which they were made.
    pub runs: Vec<(String, Fault, bool)>,
}

/// A run that did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caught {
    /// The step at which something went wrong; empty where nothing did.
    pub step: String,
    /// What went wrong.
    pub fault: Fault,
    /// What came of it.
    pub what: String,
}

/// `the step `charge`: its answer is lost, and it is made again: 84 charged, not 42`
impl fmt::Display for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, fault, what } = self;
        write!(f, "the step `{step}`: {fault}: {what}")
    }
}

impl std::error::Error for Caught {}

/// Runs the saga once without a fault, and once for each step and fault, each time with services of its own
/// and over a store of its own. `check` is told what happened and says what is wrong.
///
/// # Errors
/// The first run that does not end, or that `check` refuses.
pub async fn every_fault<S, I, O>(
    saga: &SagaType<S, I, O>,
    services: impl AsyncFn() -> Arc<S>,
    input: &I,
    check: impl AsyncFn(&S, &Ran<O>) -> Result<(), String>,
) -> Result<Report, Caught>
where
    S: Send + Sync + 'static,
    I: Serialize,
    O: DeserializeOwned,
{
    EveryFault::default().run(saga, services, input, check).await
}

/// The same, with more that can be said.
#[derive(Default)]
pub struct EveryFault {
    store: Option<Arc<dyn Journal>>,
    signals: Vec<Signal>,
    /// What signals bring that are sent to whoever waits for them, by name.
    answers: BTreeMap<Text, Json>,
}

impl EveryFault {
    /// The store that sagas are run from: the one that steps in transactions are stated with. Without it,
    /// each run has an embedded one in a temporary folder.
    #[must_use]
    pub fn over(self, store: Arc<dyn Journal>) -> Self {
        Self { store: Some(store), ..self }
    }

    /// Sent in every run, under an id of its own.
    #[must_use]
    pub fn signal(mut self, signal: Signal) -> Self {
        self.signals.push(signal);
        self
    }

    /// Sent in every run to each step that waits for a signal of this name, about what it waits for.
    #[must_use]
    pub fn answer(mut self, name: impl Into<Text>, payload: Json) -> Self {
        self.answers.insert(name.into(), payload);
        self
    }

    /// As [`every_fault`].
    ///
    /// # Errors
    /// As [`every_fault`].
    pub async fn run<S, I, O>(
        &self,
        saga: &SagaType<S, I, O>,
        services: impl AsyncFn() -> Arc<S>,
        input: &I,
        check: impl AsyncFn(&S, &Ran<O>) -> Result<(), String>,
    ) -> Result<Report, Caught>
    where
        S: Send + Sync + 'static,
        I: Serialize,
        O: DeserializeOwned,
    {
        let input = Json::of(input, "the saga's input").map_err(|error| untried(&error))?;
        let mut report = Report { runs: Vec::new() };
        for (number, blow) in blows(saga.checked().definition()).into_iter().enumerate() {
            let services = services().await;
            let serve = |runner: SagaRunner| runner.serve(saga, &services);
            let ran = self.ended(number, (saga.checked(), &serve), &input, blow).await?;
            let (step, fault) = (ran.step.clone(), ran.fault);
            let caught = |what| Caught { step: step.clone(), fault, what };
            let ran = ran.read().map_err(|error| caught(error.to_string()))?;
            check(&services, &ran).await.map_err(caught)?;
            report.runs.push((step, fault, ran.is_completed()));
        }
        Ok(report)
    }

    /// As [`Self::run`], of a definition whose participants are found by name. Each run begins with `serve`, and
    /// `told` is told how it ended, and says whether there is to be another one.
    pub async fn run_definition(
        &self,
        checked: &Checked,
        serve: &(dyn Fn(SagaRunner) -> SagaRunner + Sync),
        input: &Json,
        mut told: impl AsyncFnMut(Result<Ran<Json>, Caught>) -> bool,
    ) {
        for (number, blow) in blows(checked.definition()).into_iter().enumerate() {
            if !told(self.ended(number, (checked, serve), input, blow).await).await {
                break;
            }
        }
    }

    /// How a run with this blow ended.
    async fn ended(
        &self,
        number: usize,
        of: (&Checked, &(dyn Fn(SagaRunner) -> SagaRunner + Sync)),
        input: &Json,
        blow: Blow,
    ) -> Result<Ran<Json>, Caught> {
        let (step, fault) = (blow.step.clone(), blow.fault.unwrap_or(Fault::None));
        let run = self.one(number, of, input.clone(), Arc::new(blow));
        let ended = match tokio::time::timeout(PATIENCE, run).await {
            Ok(ended) => ended.map_err(|error| error.to_string()),
            Err(_) => Err(format!("it has not ended in {PATIENCE:?}")),
        };
        match ended {
            Ok((saga, outcome, why)) => Ok(Ran { fault, step, saga, outcome, why }),
            Err(what) => Err(Caught { step, fault, what }),
        }
    }
}

/// Nothing, and then everything that can go wrong at each step.
fn blows(definition: &Definition) -> Vec<Blow> {
    let last = last_to_fail(definition).map(|step| step.name.clone());
    let mut blows = vec![Blow::default()];
    for step in &definition.steps {
        let faults = Fault::ALL.into_iter().filter(|fault| fault.can_happen_to(step));
        blows.extend(faults.map(|fault| {
            let fails = last.clone().filter(|_| fault == Fault::CompensatedTwice);
            Blow::new(fault, &step.name, fails)
        }));
    }
    blows
}

fn untried(error: &Error) -> Caught {
    Caught { step: String::new(), fault: Fault::None, what: error.to_string() }
}

impl Ran<Json> {
    /// With its output read.
    fn read<O: DeserializeOwned>(self) -> onewrite_core::Result<Ran<O>> {
        let Self { fault, step, saga, outcome, why } = self;
        let outcome = match outcome {
            Outcome::Completed(output) => Outcome::Completed(output.read("the saga's output")?),
            Outcome::Compensated => Outcome::Compensated,
        };
        Ok(Ran { fault, step, saga, outcome, why })
    }
}

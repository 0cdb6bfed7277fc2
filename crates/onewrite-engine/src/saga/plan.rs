//! Stating a saga in Rust: a function that builds the graph, checked by the compiler.
//!
//! ```
//! # use onewrite_engine::saga::{Cx, Finished, Plan, Retry, SagaType, StepError, StepResult};
//! # struct Shop; type Order = u32; type Hold = u32; type Charge = u32; type Parcel = u32;
//! fn place_order(mut plan: Plan<Shop, Order>) -> Finished<Shop, Order, Parcel> {
//!     let order = plan.input();
//!     let hold = plan.step("reserve_stock", order, reserve).compensate(release);
//!     let (mut plan, paid) = plan.pivot("charge_card", (order, hold), charge);
//!     let parcel = plan.step("ship_parcel", (hold, paid), ship); // from here on forward only
//!     plan.finish(parcel)
//! }
//! async fn reserve(cx: Cx<Shop>, order: Order) -> StepResult<Hold> {
//!     if order == 0 { return Err(StepError::abort("nothing ordered")); }
//!     Ok(order) // hand cx.key() to whoever reserves
//! }
//! async fn release(cx: Cx<Shop>, order: Order, hold: Option<Hold>) -> Result<(), Retry> { Ok(()) }
//! async fn charge(cx: Cx<Shop>, (order, hold): (Order, Hold)) -> StepResult<Charge> { Ok(1) }
//! async fn ship(cx: Cx<Shop>, (hold, paid): (Hold, Charge)) -> Result<Parcel, Retry> { Ok(2) }
//!
//! let saga = SagaType::plan("place_order", place_order)?;
//! # assert_eq!(saga.checked().steps().len(), 3);
//! # Ok::<(), onewrite_core::Error>(())
//! ```
//!
//! Steps run one after the other; those of a [`Plan::parallel`] group run beside one another. A step
//! whose output is used comes before the one that uses it in any case.
//!
//! What does not compile: a compensation for another type,
//!
//! ```compile_fail,E0631
//! # use onewrite_engine::saga::{Cx, Finished, Plan, Retry, StepResult};
//! fn plan(mut plan: Plan<(), u32>) -> Finished<(), u32, u32> {
//!     let order = plan.input();
//!     let hold = plan.step("reserve", order, reserve).compensate(release);
//!     plan.finish(hold)
//! }
//! async fn reserve(_: Cx<()>, order: u32) -> StepResult<u32> { Ok(order) }
//! async fn release(_: Cx<()>, order: u32, hold: Option<String>) -> Result<(), Retry> { Ok(()) }
//! ```
//!
//! the output of a step whose compensation is not settled,
//!
//! ```compile_fail,E0277
//! # use onewrite_engine::saga::{Cx, Finished, Plan, Retry, StepResult};
//! fn plan(mut plan: Plan<(), u32>) -> Finished<(), u32, u32> {
//!     let order = plan.input();
//!     let hold = plan.step("reserve", order, reserve);
//!     let (plan, paid) = plan.pivot("charge", hold, reserve);
//!     plan.finish(paid)
//! }
//! async fn reserve(_: Cx<()>, order: u32) -> StepResult<u32> { Ok(order) }
//! ```
//!
//! and a step behind the pivot that could abort:
//!
//! ```compile_fail,E0271
//! # use onewrite_engine::saga::{Cx, Finished, Plan, Retry, StepResult};
//! fn plan(plan: Plan<(), u32>) -> Finished<(), u32, u32> {
//!     let order = plan.input();
//!     let (mut plan, paid) = plan.pivot("charge", order, act);
//!     let parcel = plan.step("ship", paid, act);
//!     plan.finish(parcel)
//! }
//! async fn act(_: Cx<()>, order: u32) -> StepResult<u32> { Ok(order) }
//! ```

use std::{fmt, marker::PhantomData, ops::Deref, sync::Arc, time::Duration};

use onewrite_core::{
    BoxFuture, Result, Text,
    lease::Epoch,
    saga::{
        Checked, Compensation, Definition, Ended, Json, Kind, Mapping, RetryPolicy, SagaId, Step,
        StepKey,
    },
};
use serde::{Serialize, de::DeserializeOwned};

use super::participant::{Call, Participants};

/// Why an action did not succeed.
///
/// Any error becomes one by `?`: the step is tried again with the same key. [`StepError::abort`] says no
/// for good.
#[derive(Debug)]
pub struct StepError(Why);

#[derive(Debug)]
enum Why {
    Abort(String),
    Retry(String),
}

/// What an action answers.
pub type StepResult<T> = Result<T, StepError>;

impl StepError {
    /// The business says no: the step is not tried again, and the saga is compensated. The reason is
    /// stored; it should hold no personal data.
    pub fn abort(reason: impl Into<String>) -> Self {
        Self(Why::Abort(reason.into()))
    }

    /// It failed, or nobody knows whether it did: the step is tried again.
    pub fn retry(reason: impl Into<String>) -> Self {
        Self(Why::Retry(reason.into()))
    }
}

impl<E: std::error::Error> From<E> for StepError {
    fn from(error: E) -> Self {
        Self::retry(error.to_string())
    }
}

/// Why a compensation, or a step behind the pivot, did not succeed: it is tried again with the same key,
/// for there is no other way. Any error becomes one by `?`.
#[derive(Debug)]
pub struct Retry(String);

impl Retry {
    /// The reason is stored; it should hold no personal data.
    pub fn because(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl<E: std::error::Error> From<E> for Retry {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// What a step's function is handed: the services given to the runner, and what identifies the attempt.
#[derive(Debug)]
pub struct Cx<S> {
    services: Arc<S>,
    call: Call,
}

impl<S> Cx<S> {
    /// The same for every attempt: hand it to whoever carries out the effect.
    #[must_use]
    pub fn key(&self) -> &StepKey {
        &self.call.key
    }

    /// The saga.
    #[must_use]
    pub fn saga(&self) -> SagaId {
        self.call.saga
    }

    /// The attempt's number, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.call.attempt
    }

    /// The epoch of the lease under which the attempt is made: a fencing token.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.call.epoch
    }

    /// How much time is left before the outcome is taken for unknown.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.call.deadline.saturating_duration_since(std::time::Instant::now())
    }
}

impl<S> Deref for Cx<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.services
    }
}

/// What is known once a step is done: its output, as an input of later ones.
pub struct Out<T> {
    /// None for the saga's input.
    step: Option<usize>,
    of: PhantomData<fn() -> T>,
}

impl<T> Out<T> {
    fn new(step: Option<usize>) -> Self {
        Self { step, of: PhantomData }
    }
}

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<T> {}

impl<T> fmt::Debug for Out<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Out({:?})", self.step)
    }
}

/// One handle, or a tuple of handles: what a step is given.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the output of a step",
    note = "settle the step first: `.compensate(function)` or `.no_compensation(\"because …\")`"
)]
pub trait Handles {
    /// What the step's function takes.
    type Value: DeserializeOwned + Send + 'static;

    #[doc(hidden)]
    fn mapping(&self, at: &dyn Fn(Option<usize>) -> Mapping) -> Mapping;

    #[doc(hidden)]
    fn steps(&self) -> Vec<usize>;
}

impl<T: DeserializeOwned + Send + 'static> Handles for Out<T> {
    type Value = T;

    fn mapping(&self, at: &dyn Fn(Option<usize>) -> Mapping) -> Mapping {
        at(self.step)
    }

    fn steps(&self) -> Vec<usize> {
        self.step.into_iter().collect()
    }
}

macro_rules! handles {
    ($($name:ident $index:tt),*) => {
        impl<$($name: DeserializeOwned + Send + 'static),*> Handles for ($(Out<$name>,)*) {
            type Value = ($($name,)*);

            fn mapping(&self, at: &dyn Fn(Option<usize>) -> Mapping) -> Mapping {
                Mapping::Array(vec![$(at(self.$index.step)),*])
            }

            fn steps(&self) -> Vec<usize> {
                [$(self.$index.step),*].into_iter().flatten().collect()
            }
        }
    };
}

handles!(A 0);
handles!(A 0, B 1);
handles!(A 0, B 1, C 2);
handles!(A 0, B 1, C 2, D 3);
handles!(A 0, B 1, C 2, D 3, E 4);
handles!(A 0, B 1, C 2, D 3, E 4, F 5);

/// How the steps that follow are tried; see [`onewrite_core::saga::Step`] for what is not set.
#[derive(Debug, Clone, Default)]
pub struct StepOptions {
    /// How often the action is tried.
    pub retry: Option<RetryPolicy>,
    /// How often the compensation is tried.
    pub compensation_retry: Option<RetryPolicy>,
    /// How long one attempt may take.
    pub attempt_timeout: Option<Duration>,
    /// How long all attempts together may take; not for a pivot and what follows it.
    pub step_timeout: Option<Duration>,
}

/// The pivot is not reached: steps can be compensated.
#[derive(Debug)]
pub struct Undoable;

/// Behind the pivot: steps can only be tried again.
#[derive(Debug)]
pub struct Forward;

/// A saga that is being stated, over the services `S`, with the input `I`.
pub struct Plan<S, I, P = Undoable> {
    draft: Draft<S>,
    of: PhantomData<fn(I, P)>,
}

type Actor<S> = Arc<dyn Fn(Arc<S>, Call) -> BoxFuture<'static, Ended> + Send + Sync>;

struct Draft<S> {
    saga: String,
    steps: Vec<Step>,
    actors: Vec<(String, Actor<S>)>,
    options: StepOptions,
    /// The steps that the next one comes after.
    last: Vec<usize>,
    /// The steps of the group that is being stated, if there is one.
    group: Option<Vec<usize>>,
}

impl<S: Send + Sync + 'static> Draft<S> {
    fn add<H: Handles>(&mut self, name: &str, kind: Kind, inputs: &H) -> usize {
        let mut before = self.last.clone();
        before.extend(inputs.steps());
        before.sort_unstable();
        before.dedup();
        let names: Vec<String> = self.steps.iter().map(|step| step.name.clone()).collect();
        let name_of = |index: usize| names.get(index).cloned().unwrap_or_default();
        let at = |step: Option<usize>| match step {
            None => Mapping::input(),
            Some(index) => Mapping::output_of(&name_of(index)),
        };
        let mut step = Step::new(name, Compensation::None(String::new()));
        step.kind = kind;
        step.action = Some(format!("{}.{name}", self.saga));
        step.after = Some(before.into_iter().map(name_of).collect());
        step.input = Some(inputs.mapping(&at));
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        step.retry = self.options.retry.clone();
        step.compensation_retry = self.options.compensation_retry.clone();
        if let Some(time) = self.options.attempt_timeout {
            step.attempt_timeout_ms = millis(time);
        }
        step.step_timeout_ms =
            self.options.step_timeout.filter(|_| kind == Kind::Compensatable).map(millis);
        let index = self.steps.len();
        self.steps.push(step);
        match &mut self.group {
            Some(group) => group.push(index),
            None => self.last = vec![index],
        }
        index
    }

    fn act<V, T, E, F, Fut>(&mut self, step: usize, function: F)
    where
        V: DeserializeOwned + Send + 'static,
        T: Serialize + 'static,
        E: Into<StepError> + 'static,
        F: Fn(Cx<S>, V) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        let function = Arc::new(function);
        let actor = move |services: Arc<S>, call: Call| -> BoxFuture<'static, Ended> {
            let function = Arc::clone(&function);
            Box::pin(async move {
                let value = match call.input.read("the step's input") {
                    Ok(value) => value,
                    Err(error) => return Ended::Aborted(error.to_string().into()),
                };
                match function(Cx { services, call }, value).await.map_err(Into::into) {
                    Ok(output) => answered(Json::of(&output, "the step's output")),
                    Err(StepError(Why::Abort(reason))) => Ended::Aborted(reason.into()),
                    Err(StepError(Why::Retry(reason))) => Ended::Unknown(reason.into()),
                }
            })
        };
        let name = self.steps[step].action().to_owned();
        self.actors.push((name, Arc::new(actor)));
    }

    fn compensate<V, T, F, Fut>(&mut self, step: usize, function: F)
    where
        V: DeserializeOwned + Send + 'static,
        T: DeserializeOwned + Send + 'static,
        F: Fn(Cx<S>, V, Option<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Retry>> + Send + 'static,
    {
        let function = Arc::new(function);
        let actor = move |services: Arc<S>, call: Call| -> BoxFuture<'static, Ended> {
            let function = Arc::clone(&function);
            Box::pin(async move {
                let output = call.output.as_ref().map(|output| output.read("the step's output"));
                let known = call.input.read("the step's input").and_then(|value| Ok((value, output.transpose()?)));
                let (value, output) = match known {
                    Ok(known) => known,
                    Err(error) => return Ended::Unknown(error.to_string().into()),
                };
                match function(Cx { services, call }, value, output).await {
                    Ok(()) => Ended::Done(Json::NULL),
                    Err(Retry(reason)) => Ended::Unknown(reason.into()),
                }
            })
        };
        let name = format!("{}.compensation", self.steps[step].action());
        self.steps[step].compensation = Compensation::By(name.clone());
        self.actors.push((name, Arc::new(actor)));
    }
}

/// The effect has happened, so an output that cannot be stored is no failure of the step.
fn answered(output: Result<Json>) -> Ended {
    match output {
        Ok(output) => Ended::Done(output),
        Err(error) => Ended::Unknown(error.to_string().into()),
    }
}

impl From<Retry> for StepError {
    fn from(Retry(reason): Retry) -> Self {
        Self::retry(reason)
    }
}

impl<S: Send + Sync + 'static, I, P> Plan<S, I, P> {
    /// What the saga is given.
    #[must_use]
    pub fn input(&self) -> Out<I> {
        Out::new(None)
    }

    /// How the steps that follow are tried.
    pub fn options(&mut self, options: StepOptions) {
        self.draft.options = options;
    }

    /// States steps that run beside one another, after all before, and before all that follow. Where one
    /// uses another's output, it comes after that one.
    pub fn parallel<R>(&mut self, group: impl FnOnce(&mut Self) -> R) -> R {
        let outer = self.draft.group.replace(Vec::new());
        let stated = group(self);
        let own = std::mem::replace(&mut self.draft.group, outer).unwrap_or_default();
        match &mut self.draft.group {
            Some(outer) => outer.extend(own),
            None if own.is_empty() => {}
            None => self.draft.last = own,
        }
        stated
    }

    /// Ends the plan: `output` is what a completed saga answers.
    #[must_use]
    pub fn finish<O>(self, output: Out<O>) -> Finished<S, I, O> {
        let Draft { saga, steps, actors, .. } = self.draft;
        let output = match output.step.and_then(|step| steps.get(step)) {
            None => Mapping::input(),
            Some(step) => Mapping::output_of(&step.name),
        };
        let definition = Definition { name: saga, steps, output: Some(output), timeout_ms: None };
        Finished { definition, actors, of: PhantomData }
    }
}

impl<S: Send + Sync + 'static, I> Plan<S, I> {
    /// States a step that can be compensated.
    pub fn step<H, T, F, Fut>(
        &mut self,
        name: &str,
        inputs: H,
        action: F,
    ) -> Unsettled<'_, S, H::Value, T>
    where
        H: Handles,
        T: Serialize + DeserializeOwned + Send + 'static,
        F: Fn(Cx<S>, H::Value) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = StepResult<T>> + Send + 'static,
    {
        let step = self.draft.add(name, Kind::Compensatable, &inputs);
        self.draft.act(step, action);
        Unsettled { draft: &mut self.draft, step, of: PhantomData }
    }

    /// States the step that decides. It may say no; once it is done, the saga only goes forward.
    pub fn pivot<H, T, F, Fut>(
        mut self,
        name: &str,
        inputs: H,
        action: F,
    ) -> (Plan<S, I, Forward>, Out<T>)
    where
        H: Handles,
        T: Serialize + DeserializeOwned + Send + 'static,
        F: Fn(Cx<S>, H::Value) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = StepResult<T>> + Send + 'static,
    {
        let step = self.draft.add(name, Kind::Pivot, &inputs);
        self.draft.act(step, action);
        self.draft.steps[step].compensation =
            Compensation::None("it decides: nothing is compensated once it is done".into());
        (Plan { draft: self.draft, of: PhantomData }, Out::new(Some(step)))
    }
}

impl<S: Send + Sync + 'static, I> Plan<S, I, Forward> {
    /// States a step behind the pivot: it is tried until it succeeds.
    pub fn step<H, T, F, Fut>(&mut self, name: &str, inputs: H, action: F) -> Out<T>
    where
        H: Handles,
        T: Serialize + DeserializeOwned + Send + 'static,
        F: Fn(Cx<S>, H::Value) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, Retry>> + Send + 'static,
    {
        let step = self.draft.add(name, Kind::Retriable, &inputs);
        self.draft.act(step, action);
        self.draft.steps[step].compensation =
            Compensation::None("it comes after the pivot and only goes forward".into());
        Out::new(Some(step))
    }
}

/// A step whose compensation is not settled yet.
#[must_use = "say how it is compensated, or why it needs no compensation"]
pub struct Unsettled<'p, S, V, T> {
    draft: &'p mut Draft<S>,
    step: usize,
    of: PhantomData<fn(V) -> T>,
}

impl<S, V, T> Unsettled<'_, S, V, T>
where
    S: Send + Sync + 'static,
    V: DeserializeOwned + Send + 'static,
    T: DeserializeOwned + Send + 'static,
{
    /// This function makes the step good again. It is given what the step was given and what the step
    /// answered, where that is known: it also runs when nobody knows whether the action had an effect.
    pub fn compensate<F, Fut>(self, function: F) -> Out<T>
    where
        F: Fn(Cx<S>, V, Option<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Retry>> + Send + 'static,
    {
        self.draft.compensate(self.step, function);
        Out::new(Some(self.step))
    }

    /// Nothing has to be made good, because of this reason.
    pub fn no_compensation(self, because: &str) -> Out<T> {
        self.draft.steps[self.step].compensation = Compensation::None(because.to_owned());
        Out::new(Some(self.step))
    }
}

/// A saga that was stated.
pub struct Finished<S, I, O> {
    definition: Definition,
    actors: Vec<(String, Actor<S>)>,
    of: PhantomData<fn(I) -> O>,
}

impl<S, I, O> Finished<S, I, O> {
    /// After so long it is compensated, unless its pivot was attempted by then; after that, an alert
    /// says so.
    #[must_use]
    pub fn within(mut self, time: Duration) -> Self {
        self.definition.timeout_ms = u64::try_from(time.as_millis()).ok();
        self
    }
}

/// One type of saga: its definition and its functions.
pub struct SagaType<S, I, O> {
    checked: Arc<Checked>,
    actors: Vec<(String, Actor<S>)>,
    of: PhantomData<fn(I) -> O>,
}

impl<S, I, O> Clone for SagaType<S, I, O> {
    fn clone(&self) -> Self {
        Self { checked: Arc::clone(&self.checked), actors: self.actors.clone(), of: PhantomData }
    }
}

impl<S, I, O> fmt::Debug for SagaType<S, I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SagaType({})", self.checked.id())
    }
}

impl<S: Send + Sync + 'static, I, O> SagaType<S, I, O> {
    /// A type of saga of this name, as the function states it.
    ///
    /// # Errors
    /// [`onewrite_core::Code::InvalidSaga`] for what the compiler cannot see: two steps of one name, a
    /// name with other characters.
    pub fn plan(
        name: &str,
        state: impl FnOnce(Plan<S, I>) -> Finished<S, I, O>,
    ) -> Result<Self> {
        let draft = Draft {
            saga: name.to_owned(),
            steps: Vec::new(),
            actors: Vec::new(),
            options: StepOptions::default(),
            last: Vec::new(),
            group: None,
        };
        let Finished { definition, actors, .. } = state(Plan { draft, of: PhantomData });
        Ok(Self { checked: Arc::new(definition.check()?), actors, of: PhantomData })
    }

    /// Its definition.
    #[must_use]
    pub fn checked(&self) -> &Arc<Checked> {
        &self.checked
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> Text {
        self.checked.definition().name.clone().into()
    }

    /// Adds its functions, over these services, to a process's participants.
    pub fn serve(&self, services: &Arc<S>, participants: &mut Participants) {
        for (name, actor) in &self.actors {
            let (services, actor) = (Arc::clone(services), Arc::clone(actor));
            participants.add(
                name.clone(),
                Arc::new(move |call: Call| actor(Arc::clone(&services), call)),
            );
        }
    }
}

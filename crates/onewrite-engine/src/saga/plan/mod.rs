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
//! the output of a step whose compensation is not settled, be it a function or a saga of its own,
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
//! ```compile_fail,E0277
//! # use onewrite_engine::saga::{Children, Finished, Plan, SagaType};
//! # use std::time::Duration;
//! fn plan(mut plan: Plan<(), u32>, of: &Children, child: &SagaType<(), u32, u32>) -> Finished<(), u32, u32> {
//!     let order = plan.input();
//!     let parcel = plan.child("ship", order, of, child, Duration::from_secs(3_600));
//!     let (plan, said) = plan.pivot_signal("said", "word", parcel, Duration::from_secs(60));
//!     plan.finish(said)
//! }
//! ```
//!
//! a child that takes something else than the step is given,
//!
//! ```compile_fail,E0277
//! # use onewrite_engine::saga::{Children, Finished, Plan, SagaType};
//! # use std::time::Duration;
//! fn plan(mut plan: Plan<(), u32>, of: &Children, child: &SagaType<(), String, u32>) -> Finished<(), u32, u32> {
//!     let order = plan.input();
//!     let parcel = plan.child("ship", order, of, child, Duration::from_secs(3_600));
//!     let parcel = parcel.no_compensation("it only looks");
//!     plan.finish(parcel)
//! }
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

mod child;
mod draft;
mod finished;
mod handles;
mod step;
mod transaction;

use std::{collections::BTreeMap, marker::PhantomData, sync::Arc, time::Duration};

use onewrite_core::saga::{Compensation, Definition, Kind, Mapping, RetryPolicy, Wait};
use serde::{Serialize, de::DeserializeOwned};

use self::draft::{Actor, Draft, millis};
pub use self::{
    child::UnsettledChild,
    finished::{Finished, SagaType},
    handles::{Handles, Out, Part},
    step::{Cx, Retry, StepError, StepResult},
    transaction::{Attempting, InTransaction, told},
};
use super::Commands;

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
    /// uses another's output, it comes after that one. A group within another is a part of that one.
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

    /// Waits for so long, whatever happens to this process meanwhile. Nothing is kept in memory for it while more
    /// than [`keep`](crate::saga::SagaOptions::keep) is left.
    pub fn sleep(&mut self, name: &str, time: Duration) -> Out<()> {
        self.wait(name, Wait::ForMs(millis(time)), None, &())
    }

    /// Waits for the [signal](onewrite_core::saga::Signal) of this name that is about the same: a text, a
    /// number or a truth value, as it was given. The step answers what the signal brings. If none comes
    /// within this time, the step fails; behind the pivot, where there is no way out, a person has to look.
    ///
    /// A signal that came before is taken at once, as long as it is kept.
    pub fn signal<T, C>(&mut self, name: &str, signal: &str, about: C, within: Duration) -> Out<T>
    where
        T: DeserializeOwned + Send + 'static,
        C: Handles,
    {
        let wait = self.draft.signal(signal, &about);
        self.wait(name, wait, Some(within), &about)
    }

    fn wait<T>(
        &mut self,
        name: &str,
        wait: Wait,
        within: Option<Duration>,
        after: &impl Handles,
    ) -> Out<T> {
        let kind = if self.draft.is_past_pivot() { Kind::Retriable } else { Kind::Compensatable };
        Out::new(Some(self.draft.wait(name, kind, wait, within, after)))
    }

    /// Ends the plan: `output` is what a completed saga answers.
    #[must_use]
    pub fn finish<O>(self, output: Out<O>) -> Finished<S, I, O> {
        let Draft { saga, steps, actors, .. } = self.draft;
        let output = match output.step.and_then(|step| steps.get(step)) {
            None => Mapping::input(),
            Some(step) => Mapping::output_of(&step.name),
        };
        let definition = Definition {
            name: saga,
            steps,
            output: Some(output),
            timeout_ms: None,
            version: None,
            attributes: BTreeMap::new(),
        };
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

    /// States a step that can be compensated, and whose function runs in a transaction of the saga's own
    /// store: its effect and its journal row are one commit, so it happens once.
    pub fn step_in<H, T>(
        &mut self,
        name: &str,
        inputs: H,
        action: InTransaction<S, H::Value, T, StepError>,
    ) -> Unsettled<'_, S, H::Value, T>
    where
        H: Handles,
    {
        let step = self.draft.add(name, Kind::Compensatable, &inputs);
        self.draft.serve_action(step, Actor::InTransaction(action.act));
        Unsettled { draft: &mut self.draft, step, of: PhantomData }
    }

    /// States a step that can be compensated, and that somebody elsewhere carries out who is asked by a
    /// command: an event of this type ([`onewrite_core::saga::Command`]).
    pub fn command<H, T>(
        &mut self,
        name: &str,
        inputs: H,
        commands: &Commands,
        kind: &str,
    ) -> Unsettled<'_, S, H::Value, T>
    where
        H: Handles,
    {
        let step = self.draft.add(name, Kind::Compensatable, &inputs);
        self.draft.serve_action(step, asked(commands, kind));
        Unsettled { draft: &mut self.draft, step, of: PhantomData }
    }

    /// States that a signal decides: the [signal](Plan::signal) of this name that is about the same. If none
    /// comes within this time, what came before is compensated; once it is there, the saga only goes forward.
    /// While it waits nothing is decided, and it can be cancelled.
    pub fn pivot_signal<T, C>(
        mut self,
        name: &str,
        signal: &str,
        about: C,
        within: Duration,
    ) -> (Plan<S, I, Forward>, Out<T>)
    where
        T: DeserializeOwned + Send + 'static,
        C: Handles,
    {
        let wait = self.draft.signal(signal, &about);
        let step = self.draft.wait(name, Kind::Pivot, wait, Some(within), &about);
        (Plan { draft: self.draft, of: PhantomData }, Out::new(Some(step)))
    }

    /// States the step that decides, in a transaction of the saga's own store: when it says no, or is given
    /// up, nothing of it takes effect any more.
    pub fn pivot_in<H, T>(
        mut self,
        name: &str,
        inputs: H,
        action: InTransaction<S, H::Value, T, StepError>,
    ) -> (Plan<S, I, Forward>, Out<T>)
    where
        H: Handles,
    {
        let step = self.draft.add(name, Kind::Pivot, &inputs);
        self.draft.serve_action(step, Actor::InTransaction(action.act));
        self.draft.steps[step].compensation =
            Compensation::None("it decides, in the transaction that journals it".into());
        (Plan { draft: self.draft, of: PhantomData }, Out::new(Some(step)))
    }

    /// States the step that decides, with what is done should it fail: an earlier attempt with an unknown
    /// outcome may still take effect.
    pub fn pivot_or<H, T, F, Fut, G, GFut>(
        self,
        name: &str,
        inputs: H,
        action: F,
        compensation: G,
    ) -> (Plan<S, I, Forward>, Out<T>)
    where
        H: Handles,
        T: Serialize + DeserializeOwned + Send + 'static,
        F: Fn(Cx<S>, H::Value) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = StepResult<T>> + Send + 'static,
        G: Fn(Cx<S>, H::Value, Option<T>) -> GFut + Send + Sync + 'static,
        GFut: Future<Output = Result<(), Retry>> + Send + 'static,
    {
        let (mut plan, out) = self.pivot(name, inputs, action);
        if let Some(step) = out.step {
            plan.draft.compensate(step, compensation);
        }
        (plan, out)
    }

    /// States the step that decides. It may say no, which must be final for its key: an earlier attempt may
    /// still be on its way, and must not take effect afterwards. Where that cannot be had, use
    /// [`Self::pivot_or`]. Once it is done, the saga only goes forward.
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
            Compensation::None("it decides, and its no is final for its key".into());
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
        self.forward(step)
    }

    /// States a step behind the pivot whose function runs in a transaction of the saga's own store: its
    /// effect and its journal row are one commit, so it happens once.
    pub fn step_in<H, T>(
        &mut self,
        name: &str,
        inputs: H,
        action: InTransaction<S, H::Value, T, Retry>,
    ) -> Out<T>
    where
        H: Handles,
    {
        let step = self.draft.add(name, Kind::Retriable, &inputs);
        self.draft.serve_action(step, Actor::InTransaction(action.act));
        self.forward(step)
    }

    /// States a step behind the pivot that somebody elsewhere carries out who is asked by a command: an
    /// event of this type ([`onewrite_core::saga::Command`]). Should they say no, a person has to look.
    pub fn command<H, T>(
        &mut self,
        name: &str,
        inputs: H,
        commands: &Commands,
        kind: &str,
    ) -> Out<T>
    where
        H: Handles,
    {
        let step = self.draft.add(name, Kind::Retriable, &inputs);
        self.draft.serve_action(step, asked(commands, kind));
        self.forward(step)
    }

    fn forward<T>(&mut self, step: usize) -> Out<T> {
        self.draft.steps[step].compensation =
            Compensation::None("it comes after the pivot and only goes forward".into());
        Out::new(Some(step))
    }
}

/// A participant that is asked by a command.
fn asked<S>(commands: &Commands, kind: &str) -> Actor<S> {
    let participant = commands.participant(kind.to_owned());
    Actor::Elsewhere(Arc::new(move |_, call| participant.act(call)))
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

    /// Somebody elsewhere makes the step good again who is asked by a command: an event of this type.
    pub fn compensate_by(self, commands: &Commands, kind: &str) -> Out<T> {
        self.draft.serve_compensation(self.step, asked(commands, kind));
        Out::new(Some(self.step))
    }

    /// This function makes the step good again, in a transaction of the saga's own store: it happens once.
    pub fn compensate_in(self, function: InTransaction<S, (V, Option<T>), (), Retry>) -> Out<T> {
        self.draft.serve_compensation(self.step, Actor::InTransaction(function.act));
        Out::new(Some(self.step))
    }

    /// Nothing has to be made good, because of this reason.
    pub fn no_compensation(self, because: &str) -> Out<T> {
        self.draft.steps[self.step].compensation = Compensation::None(because.to_owned());
        Out::new(Some(self.step))
    }
}

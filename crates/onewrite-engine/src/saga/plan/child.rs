//! Steps of a plan that are sagas of their own.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use onewrite_core::{
    BoxFuture,
    saga::{Call, Compensation, Ended, Json, Kind},
};
use serde::de::DeserializeOwned;

use super::{
    Cx, Forward, Handles, Out, Plan, Retry,
    draft::{Act, Actor, Draft, compensation_of},
};
use crate::saga::children::{Child, ChildStep, Children, Settled};

impl<S: Send + Sync + 'static> Draft<S> {
    /// States a step that is a saga.
    fn child<H: Handles>(
        &mut self,
        name: &str,
        kind: Kind,
        inputs: &H,
        child_step: &ChildStep,
    ) -> usize {
        let step = self.add(name, kind, inputs);
        // Its time is the child's, which the step looks at.
        self.steps[step].step_timeout_ms = None;
        let child_step = child_step.clone();
        let act = move |_, call: Call| -> BoxFuture<'static, Ended> {
            let child_step = child_step.clone();
            Box::pin(async move { child_step.act(&call).await })
        };
        self.serve_action(step, Actor::Elsewhere(Arc::new(act)));
        step
    }

    /// What the step's compensation does first is the same for all; `of_completed` follows where the child has
    /// completed.
    fn settle_child(&mut self, step: usize, child_step: ChildStep, of_completed: Act<S>) {
        let act = move |services: Arc<S>, mut call: Call| -> BoxFuture<'static, Ended> {
            let (child_step, of_completed) = (child_step.clone(), Arc::clone(&of_completed));
            Box::pin(async move {
                if call.output.is_none() {
                    match child_step.settle(&call).await {
                        Ok(Settled::Output(output)) => call.output = Some(output),
                        Ok(Settled::Nothing) => return Ended::Done(Json::NULL),
                        Ok(Settled::Goes(goes)) => return goes,
                        Err(error) => return Ended::Unknown(error.to_string().into()),
                    }
                }
                of_completed(services, call).await
            })
        };
        self.serve_compensation(step, Actor::Elsewhere(Arc::new(act)));
    }
}

impl<S: Send + Sync + 'static, I> Plan<S, I> {
    /// States a step that is a saga of its own, the *child*. The step starts it, once, and answers what it
    /// answers; when the child ends compensated, or not within this time of its start, the step fails. The
    /// runners of the store have to serve the child's type as well.
    ///
    /// The child may run in another process and for any time; the saga is kept in memory only while less than
    /// [`keep`](crate::saga::SagaOptions::keep) is left until the next look. When the saga is compensated
    /// meanwhile, the child is cancelled first and its end waited for.
    ///
    /// A child is known by its type's name and the step's key: give the step another name when its child gets
    /// another one.
    pub fn child<H, T>(
        &mut self,
        name: &str,
        inputs: H,
        children: &Children,
        child: impl Into<Child<H::Value, T>>,
        within: Duration,
    ) -> UnsettledChild<'_, S, H::Value, T>
    where
        H: Handles,
    {
        let child_step = child_step(children, &child.into(), within);
        let step = self.draft.child(name, Kind::Compensatable, &inputs, &child_step);
        UnsettledChild { draft: &mut self.draft, step, child_step, of: PhantomData }
    }
}

impl<S: Send + Sync + 'static, I> Plan<S, I, Forward> {
    /// States a step behind the pivot that is a saga of its own; see [`Plan::child`]. There is no way out here:
    /// when the child ends compensated, or not within this time, a person has to look. An end that comes later
    /// still counts.
    pub fn child<H, T>(
        &mut self,
        name: &str,
        inputs: H,
        children: &Children,
        child: impl Into<Child<H::Value, T>>,
        within: Duration,
    ) -> Out<T>
    where
        H: Handles,
    {
        let child_step = child_step(children, &child.into(), within);
        let step = self.draft.child(name, Kind::Retriable, &inputs, &child_step);
        self.forward(step)
    }
}

fn child_step<V, T>(children: &Children, child: &Child<V, T>, within: Duration) -> ChildStep {
    ChildStep { children: children.clone(), child: Arc::clone(&child.find), within }
}

/// A step that is a saga, and of which it is not settled what makes it good once that saga has completed.
///
/// A child that has not completed needs nothing here: it is cancelled, and compensates itself.
#[must_use = "say how a completed child is made good, or why it needs not be"]
pub struct UnsettledChild<'p, S, V, T> {
    draft: &'p mut Draft<S>,
    step: usize,
    child_step: ChildStep,
    of: PhantomData<fn(V) -> T>,
}

impl<S, V, T> UnsettledChild<'_, S, V, T>
where
    S: Send + Sync + 'static,
    V: DeserializeOwned + Send + 'static,
    T: DeserializeOwned + Send + 'static,
{
    /// This function makes a completed child good. It is given what the child was given and what it answered,
    /// which is known: it never runs for a child that is compensated or was not started.
    pub fn compensate<F, Fut>(self, function: F) -> Out<T>
    where
        F: Fn(Cx<S>, V, Option<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Retry>> + Send + 'static,
    {
        self.draft.settle_child(self.step, self.child_step, compensation_of(function, true));
        Out::new(Some(self.step))
    }

    /// Nothing has to be made good of a completed child, because of this reason.
    pub fn no_compensation(self, because: &str) -> Out<T> {
        if because.trim().is_empty() {
            // Without a reason the definition is refused.
            self.draft.steps[self.step].compensation = Compensation::None(String::new());
        } else {
            let nothing = |_, _| -> BoxFuture<'static, Ended> {
                Box::pin(std::future::ready(Ended::Done(Json::NULL)))
            };
            self.draft.settle_child(self.step, self.child_step, Arc::new(nothing));
        }
        Out::new(Some(self.step))
    }
}

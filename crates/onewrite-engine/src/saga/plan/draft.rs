//! The definition and the functions of a saga that is being stated.

use std::{sync::Arc, time::Duration};

use onewrite_core::{
    BoxFuture, Result,
    saga::{Call, Compensation, Ended, Json, Kind, Mapping, Step, Wait},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Cx, Handles, Retry, StepError, StepOptions,
    step::Why,
    transaction::{InStore, told},
};

/// A function whose answer is journaled.
pub(super) type Act<S> = Arc<dyn Fn(Arc<S>, Call) -> BoxFuture<'static, Ended> + Send + Sync>;

/// A step's function, over services and values that nobody outside of it knows the types of.
pub(super) enum Actor<S> {
    /// Whose answer is journaled.
    Elsewhere(Act<S>),
    /// Which is committed together with its journal row.
    InTransaction(InStore<S>),
}

impl<S> Clone for Actor<S> {
    fn clone(&self) -> Self {
        match self {
            Self::Elsewhere(act) => Self::Elsewhere(Arc::clone(act)),
            Self::InTransaction(act) => Self::InTransaction(Arc::clone(act)),
        }
    }
}

pub(super) struct Draft<S> {
    pub(super) saga: String,
    pub(super) steps: Vec<Step>,
    pub(super) actors: Vec<(String, Actor<S>)>,
    pub(super) options: StepOptions,
    /// The steps that the next one comes after.
    pub(super) last: Vec<usize>,
    /// The steps of the group that is being stated, if there is one.
    pub(super) group: Option<Vec<usize>>,
}

impl<S: Send + Sync + 'static> Draft<S> {
    pub(super) fn add<H: Handles>(&mut self, name: &str, kind: Kind, inputs: &H) -> usize {
        let mut before = self.last.clone();
        before.extend(inputs.steps());
        before.sort_unstable();
        before.dedup();
        let name_of = |index: usize| self.steps[index].name.clone();
        let mut step = Step::new(name, Compensation::None(String::new()));
        step.kind = kind;
        step.action = Some(format!("{}.{name}", self.saga));
        step.after = Some(before.into_iter().map(name_of).collect());
        step.input = Some(self.mapping(inputs));
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

    /// Where these values are found.
    pub(super) fn mapping(&self, of: &impl Handles) -> Mapping {
        of.mapping(&|step: Option<usize>| match step.and_then(|index| self.steps.get(index)) {
            None => Mapping::input(),
            Some(step) => Mapping::output_of(&step.name),
        })
    }

    /// For the signal of this name about the same.
    pub(super) fn signal(&self, name: &str, about: &impl Handles) -> Wait {
        Wait::Signal { name: name.to_owned(), correlation: self.mapping(about) }
    }

    /// States a step that carries nothing out.
    pub(super) fn wait(
        &mut self,
        name: &str,
        kind: Kind,
        wait: Wait,
        within: Option<Duration>,
        after: &impl Handles,
    ) -> usize {
        let index = self.add(name, kind, after);
        let step = &mut self.steps[index];
        step.wait = Some(wait);
        step.compensation = Compensation::None("waiting changes nothing".into());
        (step.action, step.input, step.retry) = (None, None, None);
        step.step_timeout_ms = within.map(millis);
        index
    }

    /// Whether what is stated next comes behind the pivot.
    pub(super) fn is_past_pivot(&self) -> bool {
        self.steps.iter().any(|step| step.kind != Kind::Compensatable)
    }

    pub(super) fn act<V, T, E, F, Fut>(&mut self, step: usize, function: F)
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
                let answer = told(function(Cx::new(services, call), value).await);
                answer.map_or_else(|ended| ended, Ended::Done)
            })
        };
        self.serve_action(step, Actor::Elsewhere(Arc::new(actor)));
    }

    pub(super) fn serve_action(&mut self, step: usize, actor: Actor<S>) {
        let name = self.steps[step].action().to_owned();
        self.actors.push((name, actor));
    }

    pub(super) fn serve_compensation(&mut self, step: usize, actor: Actor<S>) {
        let name = format!("{}.compensation", self.steps[step].action());
        self.steps[step].compensation = Compensation::By(name.clone());
        self.actors.push((name, actor));
    }

    pub(super) fn compensate<V, T, F, Fut>(&mut self, step: usize, function: F)
    where
        V: DeserializeOwned + Send + 'static,
        T: DeserializeOwned + Send + 'static,
        F: Fn(Cx<S>, V, Option<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Retry>> + Send + 'static,
    {
        self.serve_compensation(step, Actor::Elsewhere(compensation_of(function, false)));
    }
}

/// A compensation's function; whether it is that of a completed child, whose barrier stands alone.
pub(super) fn compensation_of<S, V, T, F, Fut>(function: F, of_child: bool) -> Act<S>
where
    S: Send + Sync + 'static,
    V: DeserializeOwned + Send + 'static,
    T: DeserializeOwned + Send + 'static,
    F: Fn(Cx<S>, V, Option<T>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Retry>> + Send + 'static,
{
    let function = Arc::new(function);
    Arc::new(move |services: Arc<S>, call: Call| -> BoxFuture<'static, Ended> {
        let function = Arc::clone(&function);
        Box::pin(async move {
            let output = call.output.as_ref().map(|output| output.read("the step's output"));
            let known = call
                .input
                .read("the step's input")
                .and_then(|value| Ok((value, output.transpose()?)));
            let (value, output) = match known {
                Ok(known) => known,
                Err(error) => return Ended::Unknown(error.to_string().into()),
            };
            let cx = Cx { services, call, of_child };
            match function(cx, value, output).await {
                Ok(()) => Ended::Done(Json::NULL),
                Err(Retry(reason)) => Ended::Unknown(reason.into()),
            }
        })
    })
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// An effect may have happened, so an output that cannot be stored does not make the step fail for good.
pub(super) fn answered(output: Result<Json>) -> Result<Json, Ended> {
    output.map_err(|error| Ended::Unknown(error.to_string().into()))
}

pub(super) fn ended(error: StepError) -> Ended {
    match error {
        StepError(Why::Abort(reason)) => Ended::Aborted(reason.into()),
        StepError(Why::Retry(reason)) => Ended::Unknown(reason.into()),
    }
}

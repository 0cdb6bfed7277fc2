//! Functions of a plan that run in a transaction of the store, which journals them as well.

use std::{marker::PhantomData, sync::Arc};

use onewrite_core::{
    BoxFuture, Result,
    saga::{Call, Ended, Journaling, Json, Transacted},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Cx, StepError,
    draft::{answered, ended},
};
use crate::saga::attempt::in_time;

/// A function in a transaction, over services that nobody outside of it knows the type of.
pub(super) type InStore<S> =
    Arc<dyn Fn(Arc<S>, Call, Journaling) -> BoxFuture<'static, Result<Transacted>> + Send + Sync>;

/// A step's function whose effect is committed together with the saga's journal: it takes `V` and answers
/// `Result<T, E>`. A client of the store makes it.
pub struct InTransaction<S, V, T, E> {
    pub(super) act: InStore<S>,
    of: PhantomData<fn(V) -> Result<T, E>>,
}

impl<S, V, T, E> InTransaction<S, V, T, E> {
    /// A function that `act` runs in a transaction.
    pub fn new(
        act: impl Fn(Attempting<S>, Journaling) -> BoxFuture<'static, Result<Transacted>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let act = move |services, call, journal| act(Attempting { services, call }, journal);
        Self { act: Arc::new(act), of: PhantomData }
    }
}

/// One attempt, for a client that may run the function more than once.
#[derive(Debug)]
pub struct Attempting<S> {
    services: Arc<S>,
    call: Call,
}

impl<S> Attempting<S> {
    /// What the function is given.
    ///
    /// # Errors
    /// The input has another shape: it can never be made.
    pub fn given<V: DeserializeOwned>(&self) -> Result<(Cx<S>, V), Ended> {
        let value = self.call.input.read("the step's input");
        let value = value.map_err(|error| Ended::Aborted(error.to_string().into()))?;
        Ok((Cx::new(Arc::clone(&self.services), self.call.clone()), value))
    }

    /// What a compensation is given: what the step was given, and what it answered where that is known.
    ///
    /// # Errors
    /// One has another shape: it is tried again, until a person looks.
    pub fn given_back<V, T>(&self) -> Result<(Cx<S>, V, Option<T>), Ended>
    where
        V: DeserializeOwned,
        T: DeserializeOwned,
    {
        let unknown = |error: onewrite_core::Error| Ended::Unknown(error.to_string().into());
        let value = self.call.input.read("the step's input").map_err(unknown)?;
        let output = self.call.output.as_ref().map(|output| output.read("the step's output"));
        let cx = Cx::new(Arc::clone(&self.services), self.call.clone());
        Ok((cx, value, output.transpose().map_err(unknown)?))
    }

    /// Waits for the function until the attempt's deadline, and for its panic.
    ///
    /// # Errors
    /// That it did not succeed.
    pub async fn answer<T: Serialize, E: Into<StepError>>(
        &self,
        acting: impl Future<Output = Result<T, E>>,
    ) -> Result<Json, Ended> {
        told(in_time(self.call.deadline, acting).await?)
    }
}

/// What a function that has answered comes to.
///
/// # Errors
/// That it did not succeed.
pub fn told<T: Serialize, E: Into<StepError>>(answer: Result<T, E>) -> Result<Json, Ended> {
    match answer {
        Ok(output) => answered(Json::of(&output, "the step's output")),
        Err(error) => Err(ended(error.into())),
    }
}

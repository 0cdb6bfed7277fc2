//! A saga that was stated, and the type of saga that it makes.

use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use onewrite_core::{
    Result, Text,
    saga::{Call, Checked, Definition},
};

use super::{
    Plan, StepOptions,
    draft::{Actor, Draft},
};
use crate::saga::participant::Participants;

/// A saga that was stated.
pub struct Finished<S, I, O> {
    pub(super) definition: Definition,
    pub(super) actors: Vec<(String, Actor<S>)>,
    pub(super) of: PhantomData<fn(I) -> O>,
}

impl<S, I, O> Finished<S, I, O> {
    /// After so long it is compensated, unless its pivot was attempted by then; after that, an alert
    /// says so.
    #[must_use]
    pub fn within(mut self, time: Duration) -> Self {
        self.definition.timeout_ms = u64::try_from(time.as_millis()).ok();
        self
    }

    /// Its sagas can be looked for by what stands at `pointer`, `/input/customer/id`, under this name; at most
    /// eight. A name or pointer that is none is refused by [`SagaType::plan`].
    #[must_use]
    pub fn attribute(mut self, name: impl Into<String>, pointer: impl Into<String>) -> Self {
        self.definition.attributes.insert(name.into(), pointer.into());
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
    /// name with other characters, no reason for having no compensation, times that contradict each other.
    pub fn plan(name: &str, state: impl FnOnce(Plan<S, I>) -> Finished<S, I, O>) -> Result<Self> {
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
            let services = Arc::clone(services);
            match actor.clone() {
                Actor::Elsewhere(act) => {
                    let act = move |call: Call| act(Arc::clone(&services), call);
                    participants.add(name.clone(), Arc::new(act));
                }
                Actor::InTransaction(act) => {
                    let act = move |call: Call, journal| act(Arc::clone(&services), call, journal);
                    participants.add_transactional(name.clone(), Arc::new(act));
                }
            }
        }
    }
}

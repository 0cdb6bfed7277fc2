//! What a process starts to run sagas.

use std::sync::Arc;

use onewrite_core::{
    Text,
    saga::{Participant, Transactional, journal::Journal},
};
use tokio::sync::mpsc;

use super::{
    driver::{Driver, WATCHDOG_EVERY},
    handle::{Command, Sagas},
    options::SagaOptions,
    participant::Participants,
    plan::SagaType,
    retention,
};
use crate::Shutdown;

/// Runs the sagas of a store. Several may run on one store, in any number of processes: they share its
/// sagas by partition.
pub struct SagaRunner {
    store: Arc<dyn Journal>,
    options: SagaOptions,
    owner: Text,
    participants: Participants,
    commands: mpsc::UnboundedReceiver<Command>,
    handle: Sagas,
}

impl SagaRunner {
    /// A runner; `owner` must be unique for the life of the process (host, pid and a random part).
    pub fn new(store: Arc<dyn Journal>, options: SagaOptions, owner: impl Into<Text>) -> Self {
        let (sender, commands) = mpsc::unbounded_channel();
        let handle = Sagas::new(Arc::clone(&store), sender);
        let participants = Participants::default();
        Self { store, options, owner: owner.into(), participants, commands, handle }
    }

    /// Serves a type of saga: its functions are called with `services`.
    #[must_use]
    pub fn serve<S: Send + Sync + 'static, I, O>(
        mut self,
        saga: &SagaType<S, I, O>,
        services: &Arc<S>,
    ) -> Self {
        saga.serve(services, &mut self.participants);
        self
    }

    /// Serves the actions or compensations of one name.
    #[must_use]
    pub fn participant(
        mut self,
        name: impl Into<String>,
        participant: Arc<dyn Participant>,
    ) -> Self {
        self.participants.add(name, participant);
        self
    }

    /// Serves the actions or compensations of names that nobody else serves here: asked for each attempt.
    #[must_use]
    pub fn participants(
        mut self,
        find: impl Fn(&str) -> Option<Arc<dyn Participant>> + Send + Sync + 'static,
    ) -> Self {
        self.participants.find_others(Arc::new(find));
        self
    }

    /// Serves the actions or compensations of one name in transactions of the store.
    #[must_use]
    pub fn transactional(
        mut self,
        name: impl Into<String>,
        participant: Arc<dyn Transactional>,
    ) -> Self {
        self.participants.add_transactional(name, participant);
        self
    }

    /// Puts something around all participants that are served so far: what a test interposes, or a trace.
    #[must_use]
    pub fn around(
        mut self,
        elsewhere: impl Fn(Arc<dyn Participant>) -> Arc<dyn Participant>,
        in_transaction: impl Fn(Arc<dyn Transactional>) -> Arc<dyn Transactional>,
    ) -> Self {
        self.participants.around(elsewhere, in_transaction);
        self
    }

    /// What starts sagas here.
    #[must_use]
    pub fn sagas(&self) -> Sagas {
        self.handle.clone()
    }

    /// Runs sagas until the shutdown. Then attempts in flight are waited for, as long as a lease holds at
    /// most, and what is left is handed to others.
    pub async fn run(self, shutdown: Shutdown) {
        let Self { store, options, owner, participants, commands, handle } = self;
        let health = handle.health();
        // Whoever holds a handle keeps it working; this one must not.
        drop(handle);
        let (retention, archive) = (options.retention, options.archive.clone());
        let journal = Arc::clone(&store);
        let every = options.poll * WATCHDOG_EVERY;
        let driver = Driver::new(store, options, owner, participants, health);
        let sweeper = retention::run(&*journal, retention, archive.as_ref(), every, &shutdown);
        tokio::join!(driver.run(commands, shutdown.clone()), sweeper);
    }
}

//! One run of a saga with one blow: a process that may end, and the one that carries on.

use std::{collections::HashSet, sync::Arc, time::Duration};

use onewrite_core::{
    Code, Error, Result, Text,
    lease::Fence,
    sabotage::Sabotage,
    saga::{
        Checked, Definition, Json, RetryPolicy, Saga, SagaId, Signal, Step, TurnedBack, Wait,
        journal::{Awaited, Journal, SCOPE},
    },
    store::{Batch, Durability, Item, Op},
};
use onewrite_engine::{
    Shutdown,
    saga::{Outcome, SagaOptions, SagaRunner, Sagas},
};
use onewrite_store_sqlite::{Options, SqliteStore};
use tokio::task::JoinHandle;

use super::{
    EveryFault, PATIENCE,
    fault::Fault,
    interposed::{Blow, Interposed},
};

/// How long an attempt may take that is to hang.
const HANGS_MS: u64 = 200;

/// How often it is looked what the saga waits for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A runner at work.
struct Running {
    owner: Text,
    sagas: Sagas,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl EveryFault {
    /// Runs the saga to its end.
    pub(super) async fn one(
        &self,
        number: usize,
        (checked, serve): (&Checked, &(dyn Fn(SagaRunner) -> SagaRunner + Sync)),
        input: Json,
        blow: Arc<Blow>,
    ) -> Result<(SagaId, Outcome, Option<TurnedBack>)> {
        let folder = tempfile::tempdir().map_err(no_folder)?;
        let store: Arc<dyn Journal> = match &self.store {
            Some(store) => Arc::clone(store),
            None => Arc::new(SqliteStore::open(Options::new(folder.path().join("sagas.db")))?),
        };
        // The store may know runs of another time.
        let key = format!("run-{number}-{:016x}", rand::random::<u64>());
        let begin = |life: &str| {
            let owner = format!("{key}/{life}").into();
            Running::begin(&store, serve, &blow, owner)
        };
        let mut running = begin("first");
        let checked = quick(checked.definition(), &blow)?;
        let id = running.sagas.start_definition(Arc::clone(&checked), key.clone(), input).await?.id;
        for signal in &self.signals {
            let mut signal = signal.clone();
            signal.id = format!("{}/{key}", signal.id).into();
            running.sagas.signal(signal).await?;
        }
        let mut sent = HashSet::new();
        let outcome = loop {
            let sagas = running.sagas.clone();
            tokio::select! {
                ended = sagas.ended(id) => break ended?,
                () = blow.ends.notified() => {
                    running.end(&*store).await?;
                    running = begin("second");
                }
                error = self.answer_waits(&sagas, &checked, id, &mut sent) => return Err(error),
            }
        };
        blow.arrive(PATIENCE).await;
        let why = match outcome {
            Outcome::Completed(_) => None,
            Outcome::Compensated => running.sagas.show(id).await?.turned_back(),
        };
        running.stop().await;
        Ok((id, outcome, why))
    }

    /// Sends each step the signal that it waits for, once. What it is about may be known only when it waits: it may be
    /// what an earlier step answered. Returns only where the store fails.
    async fn answer_waits(
        &self,
        sagas: &Sagas,
        checked: &Arc<Checked>,
        id: SagaId,
        sent: &mut HashSet<Text>,
    ) -> Error {
        if self.answers.is_empty() {
            return std::future::pending().await;
        }
        loop {
            if let Err(error) = self.answer_once(sagas, checked, id, sent).await {
                return error;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn answer_once(
        &self,
        sagas: &Sagas,
        checked: &Arc<Checked>,
        id: SagaId,
        sent: &mut HashSet<Text>,
    ) -> Result<()> {
        let saved = sagas.show(id).await?;
        if saved.ended_at.is_some() {
            return Ok(());
        }
        let saga = Saga::recovered(&saved, Arc::clone(checked), Sabotage::default())?;
        for Awaited { step, name, correlation } in saga.awaited() {
            let Some(payload) = self.answers.get(&name).filter(|_| !sent.contains(&step)) else {
                continue;
            };
            let signal = Signal::new(format!("{id}/{step}"), name, correlation);
            sagas.signal(signal.payload(payload)?).await?;
            sent.insert(step);
        }
        Ok(())
    }
}

impl Running {
    fn begin(
        store: &Arc<dyn Journal>,
        serve: &(dyn Fn(SagaRunner) -> SagaRunner + Sync),
        blow: &Arc<Blow>,
        owner: Text,
    ) -> Self {
        let options = SagaOptions { poll: Duration::from_millis(10), ..SagaOptions::default() };
        let (elsewhere, stored) = (Arc::clone(blow), Arc::clone(blow));
        let runner = serve(SagaRunner::new(Arc::clone(store), options, owner.clone())).around(
            move |inner| Arc::new(Interposed { inner, blow: Arc::clone(&elsewhere) }),
            move |inner| Arc::new(Interposed { inner, blow: Arc::clone(&stored) }),
        );
        let (sagas, shutdown) = (runner.sagas(), Shutdown::default());
        let task = tokio::spawn(runner.run(shutdown.clone()));
        Self { owner, sagas, shutdown, task }
    }

    /// Ends it without a word. That it has ended is known at once, as it is of a process.
    async fn end(&self, store: &dyn Journal) -> Result<()> {
        self.task.abort();
        while !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
        let mut items = Vec::new();
        for lease in store.leases().await? {
            if lease.scope == SCOPE && lease.owner.as_ref() == Some(&self.owner) {
                let (scope, partition, epoch) = (lease.scope, lease.partition, lease.epoch);
                let ops = vec![Op::Release(Fence { scope, partition, epoch })];
                items.push(Item { fence: None, ops });
            }
        }
        let op = Op::Leave { scope: SCOPE, owner: self.owner.clone() };
        items.push(Item { fence: None, ops: vec![op] });
        store.commit(Batch { durability: Durability::Relaxed, items }).await?;
        Ok(())
    }

    async fn stop(self) {
        self.shutdown.begin();
        // One that panicked has nothing more to say.
        let _ = self.task.await;
    }
}

fn no_folder(error: std::io::Error) -> Error {
    Error::new(Code::ReadOnly, "make a temporary folder").with_source(error)
}

/// The same definition without pauses, whose step gives up a hanging attempt soon.
fn quick(definition: &Definition, blow: &Blow) -> Result<Arc<Checked>> {
    let mut definition = definition.clone();
    for step in &mut definition.steps {
        if step.wait.is_none() {
            step.retry = Some(RetryPolicy { initial_ms: 1, cap_ms: 5, ..step.retry() });
        }
        let known = step.compensation_retry();
        step.compensation_retry = Some(RetryPolicy { initial_ms: 1, cap_ms: 5, ..known });
        hurry(step, blow);
    }
    Ok(Arc::new(definition.check()?))
}

fn hurry(step: &mut Step, blow: &Blow) {
    if let Some(Wait::ForMs(time)) = &mut step.wait {
        *time = 1;
    }
    if blow.fault == Some(Fault::Hangs) && step.name == blow.step {
        step.attempt_timeout_ms = step.attempt_timeout_ms.min(HANGS_MS);
    }
}

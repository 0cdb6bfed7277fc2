//! What starts sagas and waits for them.

use std::{sync::Arc, time::Duration};

use onewrite_core::{
    Code, Error, Result, Text,
    saga::{
        Checked, Input, Json, SagaId, Signal, check_text,
        journal::{FindSagas, Journal, SavedSaga, State},
    },
    store::{Batch, Durability, Item, Op, Outcome as Written},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{apart, health::Health, plan::SagaType, start::First};

/// How often a saga that another process runs is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How a saga ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<O = Json> {
    /// Every step is done.
    Completed(O),
    /// Everything that was attempted is compensated.
    Compensated,
}

/// A saga that was started, now or before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Its id.
    pub id: SagaId,
    /// Whether this call started it.
    pub is_new: bool,
}

/// A saga to be started.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) id: SagaId,
    pub(super) checked: Arc<Checked>,
    pub(super) key: Text,
    pub(super) run: u32,
    pub(super) input: Json,
    pub(super) reply: oneshot::Sender<Result<bool>>,
    /// Who waits for its end.
    pub(super) watcher: Option<Watcher>,
}

/// Is told how a saga ended. Dropped when the saga leaves this process.
pub(super) type Watcher = oneshot::Sender<Outcome>;

/// What a handle asks of its runner.
#[derive(Debug)]
pub(super) enum Command {
    Start(Start),
    Watch(SagaId, Watcher),
    /// Something was written that it should look at.
    Look,
    /// Who is held has changed.
    Held,
    /// What a person wants of a saga.
    Want {
        id: SagaId,
        input: Input,
        reply: oneshot::Sender<Result<()>>,
    },
}

/// Starts sagas at a runner of this process, and waits for them. Cheap to clone.
#[derive(Clone)]
pub struct Sagas {
    store: Arc<dyn Journal>,
    commands: mpsc::UnboundedSender<Command>,
    /// Whether there is no runner in this process, nor will be.
    apart: bool,
    health: Health,
}

impl Sagas {
    pub(super) fn new(store: Arc<dyn Journal>, commands: mpsc::UnboundedSender<Command>) -> Self {
        Self { store, commands, apart: false, health: Health::default() }
    }

    /// A handle without a runner: what it starts and asks for stands in the store, for whoever runs the sagas
    /// there. Each start is a commit of its own.
    #[must_use]
    pub fn apart(store: Arc<dyn Journal>) -> Self {
        let (commands, _) = mpsc::unbounded_channel();
        Self { store, commands, apart: true, health: Health::default() }
    }

    /// Starts a saga about `key`, unless one of this name and key was started before: starting twice is
    /// harmless. Returns once the start is durable.
    ///
    /// # Errors
    /// [`Code::InvalidInput`] when `input` has no JSON form or more than [`JSON_MAX`] bytes, or for a key that
    /// cannot be; [`Code::Stopped`] without a runner in this process; what the database says when it refuses this
    /// saga ([`Code::Database`]) or everything ([`Code::DiskFull`], [`Code::ReadOnly`]; [`Code::StoreUnreachable`]
    /// after some seconds), and then it was not started; [`Code::CommitUnknown`] when nobody knows whether it was started: repeat it with the same key.
    ///
    /// [`JSON_MAX`]: onewrite_core::saga::JSON_MAX
    pub async fn start<S, I, O>(
        &self,
        saga: &SagaType<S, I, O>,
        key: impl Into<Text>,
        input: &I,
    ) -> Result<Started>
    where
        S: Send + Sync + 'static,
        I: Serialize,
    {
        let input = Json::of(input, "the saga's input")?;
        self.start_checked(Arc::clone(saga.checked()), key.into(), 0, input, None).await
    }

    /// As [`Self::start`], and refuses what was started before.
    ///
    /// # Errors
    /// As [`Self::start`], and [`Code::SagaExists`].
    pub async fn start_new<S, I, O>(
        &self,
        saga: &SagaType<S, I, O>,
        key: impl Into<Text>,
        input: &I,
    ) -> Result<SagaId>
    where
        S: Send + Sync + 'static,
        I: Serialize,
    {
        let key: Text = key.into();
        let Started { id, is_new } = self.start(saga, key.clone(), input).await?;
        if is_new {
            return Ok(id);
        }
        Err(exists(&saga.name(), &key, id))
    }

    /// Starts a saga about `key` anew: one that has ended is followed by another run of its own; one that has
    /// not is cancelled and its end waited for, however long its compensations take.
    ///
    /// # Errors
    /// As [`Self::start`] and [`Self::cancel`]; [`Code::WrongState`] when the one before is past its pivot,
    /// [`Code::SagaExists`] when somebody else started one meanwhile.
    pub async fn start_anew<S, I, O>(
        &self,
        saga: &SagaType<S, I, O>,
        key: impl Into<Text>,
        input: &I,
        (actor, reason): (&str, &str),
    ) -> Result<SagaId>
    where
        S: Send + Sync + 'static,
        I: Serialize,
    {
        let (key, input): (Text, _) = (key.into(), Json::of(input, "the saga's input")?);
        check_key(&key)?;
        let find = || FindSagas::Key { name: saga.name(), key: key.clone() };
        let mut last = self.store.sagas(find()).await?.pop();
        if let Some(known) = last.as_ref().filter(|known| known.ended_at.is_none()) {
            let cancelled = self.cancel(known.id, actor.to_owned(), reason.to_owned()).await;
            let saved = self.show(known.id).await?;
            if saved.ended_at.is_none() {
                cancelled?;
                self.ended(known.id).await?;
            }
            last = self.store.sagas(find()).await?.pop();
        }
        let run = last.as_ref().map_or(0, |known| known.run.saturating_add(1));
        let checked = Arc::clone(saga.checked());
        let started = self.start_checked(checked, key.clone(), run, input, None).await?;
        if started.is_new {
            return Ok(started.id);
        }
        Err(exists(&saga.name(), &key, started.id))
    }

    /// Starts a saga and waits for its end, as [`Self::ended`] does. One that was started before is waited for.
    ///
    /// # Errors
    /// As [`Self::start`], and [`Code::InvalidInput`] when its output has another shape.
    pub async fn run<S, I, O>(
        &self,
        saga: &SagaType<S, I, O>,
        key: impl Into<Text>,
        input: &I,
    ) -> Result<Outcome<O>>
    where
        S: Send + Sync + 'static,
        I: Serialize,
        O: DeserializeOwned,
    {
        let input = Json::of(input, "the saga's input")?;
        let (watcher, ended) = oneshot::channel();
        let checked = Arc::clone(saga.checked());
        let started = self.start_checked(checked, key.into(), 0, input, Some(watcher)).await?;
        let outcome = match ended.await {
            Ok(outcome) => outcome,
            Err(_) => self.ended(started.id).await?,
        };
        Ok(match outcome {
            Outcome::Completed(output) => Outcome::Completed(output.read("the saga's output")?),
            Outcome::Compensated => Outcome::Compensated,
        })
    }

    /// As [`Self::start`], by a definition.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_definition(
        &self,
        checked: Arc<Checked>,
        key: impl Into<Text>,
        input: Json,
    ) -> Result<Started> {
        self.start_checked(checked, key.into(), 0, input, None).await
    }

    async fn start_checked(
        &self,
        checked: Arc<Checked>,
        key: Text,
        run: u32,
        input: Json,
        mut watcher: Option<Watcher>,
    ) -> Result<Started> {
        check_key(&key)?;
        let name: Text = checked.definition().name.clone().into();
        loop {
            let id = SagaId(new_id().as_u128());
            let find = FindSagas::Key { name: name.clone(), key: key.clone() };
            let (checked, key, input) = (Arc::clone(&checked), key.clone(), input.clone());
            let is_new = if self.apart {
                let (parent, started_at) = (None, self.store.now().await?);
                let first = First { checked, key, run, input, parent, started_at };
                apart::start(&*self.store, first, id).await?
            } else {
                let ((reply, answer), watcher) = (oneshot::channel(), watcher.take());
                self.ask(Command::Start(Start { id, checked, key, run, input, reply, watcher }))?;
                answer.await.map_err(|_| stopped())??
            };
            if is_new {
                return Ok(Started { id, is_new });
            }
            if let Some(known) = self.store.sagas(find).await?.pop() {
                return Ok(Started { id: known.id, is_new: false });
            }
            // It ended long ago, and has been deleted since: the key is free.
        }
    }

    /// Waits until a saga has ended, whoever runs it, and for as long as that takes: one that is held ends when
    /// a person has seen to it.
    ///
    /// # Errors
    /// [`Code::NotFound`], or what the store says.
    pub async fn ended(&self, id: SagaId) -> Result<Outcome> {
        loop {
            let (watcher, ended) = oneshot::channel();
            if self.ask(Command::Watch(id, watcher)).is_ok()
                && let Ok(outcome) = ended.await
            {
                return Ok(outcome);
            }
            // It is not in the memory of this process.
            let saved = self.show(id).await?;
            match saved.standing.state {
                State::Completed => {
                    return Ok(Outcome::Completed(saved.standing.output.unwrap_or(Json::NULL)));
                }
                State::Compensated => return Ok(Outcome::Compensated),
                State::Running | State::Compensating | State::NeedsOperator => {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        }
    }

    /// Sends a signal to the saga that waits for it, now or later, whoever runs it. Returns whether it is
    /// new, once it is durable: one that was sent before changes nothing.
    ///
    /// # Errors
    /// [`Code::InvalidInput`] for a signal that cannot be; [`Code::CommitUnknown`] when nobody knows whether
    /// it was sent: repeat it with the same id.
    pub async fn signal(&self, signal: Signal) -> Result<bool> {
        signal.check()?;
        let items = vec![Item { fence: None, ops: vec![Op::Signal(Box::new(signal))] }];
        let batch = Batch { durability: Durability::Durable, items };
        let sent = match self.store.commit(batch).await?.pop() {
            Some(Written::Applied(count)) => count > 0,
            Some(Written::Failed(error)) => return Err(error),
            Some(Written::Fenced) | None => false,
        };
        self.look_soon();
        Ok(sent)
    }

    /// Whether the store takes what the runner of this process writes, its leases among it.
    ///
    /// # Errors
    /// What the store said last, while it takes nothing: [`Code::DiskFull`], [`Code::ReadOnly`],
    /// [`Code::StoreUnreachable`] and the like.
    pub fn writable(&self) -> Result<()> {
        self.health.check(Instant::now())
    }

    /// # Errors
    /// As [`Self::writable`], where time alone is not expected to mend it.
    pub(super) fn refuses_all(&self) -> Result<()> {
        let now = Instant::now();
        if self.health.is_told(now) { self.health.check(now) } else { Ok(()) }
    }

    pub(super) fn health(&self) -> Health {
        self.health.clone()
    }

    /// A saga with its journal.
    ///
    /// # Errors
    /// [`Code::NotFound`], also for one that ended before the retention's time; [`Code::Corrupt`] where its row
    /// cannot be read; or what the store says.
    pub async fn show(&self, id: SagaId) -> Result<SavedSaga> {
        let found = self.store.sagas(FindSagas::Id(id)).await?.pop();
        let cure = "Check the id and the store that was asked: `onewrite saga list` shows what there is, and ended sagas are deleted after a while.";
        let missing =
            || Error::new(Code::NotFound, format!("there is no saga {id}")).with_cure(cure);
        found.ok_or_else(missing)?.readable()
    }

    pub(super) fn store(&self) -> &dyn Journal {
        &*self.store
    }

    /// Has a runner here look who is held; others do so by themselves.
    pub(super) fn look_who_is_held(&self) {
        let _ = self.ask(Command::Held);
    }

    /// Has a runner here look at what was written; without one, another finds it.
    pub(super) fn look_soon(&self) {
        let _ = self.ask(Command::Look);
    }

    pub(super) fn ask(&self, command: Command) -> Result<()> {
        self.commands.send(command).map_err(|_| stopped())
    }
}

/// A write of many sagas is one: what a store cannot keep would be refused for all of them.
fn check_key(key: &str) -> Result<()> {
    check_text(key)
        .map_err(|why| Error::new(Code::InvalidInput, format!("the key of a saga {why}")))
}

fn exists(name: &str, key: &str, id: SagaId) -> Error {
    let what = format!("the saga `{name}` about `{key}` was started before, as {id}");
    Error::new(Code::SagaExists, what)
}

pub(super) fn new_id() -> uuid::Uuid {
    uuid::Uuid::now_v7()
}

pub(super) fn stopped() -> Error {
    Error::new(Code::Stopped, "the runner of sagas has stopped")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_not_every_store_can_keep_is_refused() {
        for bad in ["", "a\0b", &"é".repeat(256)] {
            assert_eq!(check_key(bad).unwrap_err().code(), Code::InvalidInput, "{bad:?}");
        }
        check_key(&"é".repeat(255)).unwrap();
    }
}

//! Participants elsewhere that are asked by a command and answer by a reply.
//!
//! A command is an event in the outbox of the saga's store, and travels as any event. Its reply comes back as
//! a signal to that store. An attempt sends the command and waits for a reply until its deadline; the next
//! one sends it again, with the same key. Whoever waits here waits in memory: should this process end, the
//! next owner's attempt finds the reply that came meanwhile.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use onewrite_core::{
    BoxFuture, Result, Text,
    saga::{Answer, Call, Command, Ended, Json, Participant, REPLY, Reply, journal::Journal},
    store::{Batch, Durability, Item, Op, Outcome},
};
use tokio::sync::oneshot;

/// How often it looks for replies while somebody waits for one.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The commands of one store, and those who wait for replies to them. Cheap to clone.
#[derive(Clone)]
pub struct Commands {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Journal>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// By key.
    by_key: HashMap<Text, Waiter>,
    /// Whether somebody looks for their replies.
    is_looked_for: bool,
}

/// Who waits for the reply to a command.
struct Waiter {
    /// The number of the attempt.
    attempt: u32,
    /// Replies that were there before it was sent. Attempts are counted anew when a person lets a held step
    /// try again, so of these only one that says that it is done counts.
    known: usize,
    sender: oneshot::Sender<Ended>,
}

impl Commands {
    /// The commands of a store: the one that sagas are run from.
    pub fn new(store: Arc<dyn Journal>) -> Self {
        Self { inner: Arc::new(Inner { store, waiting: Mutex::default() }) }
    }

    /// A participant that is asked by events of this type, at least once for an attempt; its replies are waited
    /// for until the attempt's deadline, and one that came before counts for the next attempt. In memory is one
    /// entry for each attempt that waits.
    #[must_use]
    pub fn participant(&self, kind: impl Into<Text>) -> Arc<dyn Participant> {
        Arc::new(Asked { commands: self.clone(), kind: kind.into() })
    }

    async fn ask(&self, kind: Text, call: Call) -> Result<Ended> {
        let command = Command::of(&call);
        let (sender, answer) = oneshot::channel();
        let about = vec![command.key.clone()];
        let known = self.inner.store.signals(&REPLY, about).await?.len();
        // Before the command is sent: a reply may have come to an earlier one.
        self.wait(&command, known, sender);
        let ops = vec![Op::Emit(Box::new(command.event(kind)?))];
        let items = vec![Item { fence: None, ops }];
        let sent =
            self.inner.store.commit(Batch { durability: Durability::Durable, items }).await?;
        if let Some(Outcome::Failed(error)) = sent.into_iter().next() {
            return Err(error);
        }
        Ok(answer.await.unwrap_or_else(|_| Ended::Unknown("another attempt waits for it".into())))
    }

    fn wait(&self, command: &Command, known: usize, sender: oneshot::Sender<Ended>) {
        let mut waiting = self.inner.waiting();
        let waiter = Waiter { attempt: command.attempt, known, sender };
        waiting.by_key.insert(command.key.clone(), waiter);
        if !std::mem::replace(&mut waiting.is_looked_for, true) {
            tokio::spawn(Arc::clone(&self.inner).look());
        }
    }
}

impl Inner {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for replies until nobody waits for one.
    async fn look(self: Arc<Self>) {
        while let Some(keys) = self.keys() {
            match self.store.signals(&REPLY, keys).await {
                Ok(found) => self.hand_over_all(found),
                Err(error) => tracing::warn!(%error, "replies to commands were not read"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The keys that somebody waits for; with none, nobody looks any more.
    fn keys(&self) -> Option<Vec<Text>> {
        let mut waiting = self.waiting();
        // An attempt whose time is over is dropped, and waits no longer.
        waiting.by_key.retain(|_, waiter| !waiter.sender.is_closed());
        waiting.is_looked_for = !waiting.by_key.is_empty();
        waiting.is_looked_for.then(|| waiting.by_key.keys().cloned().collect())
    }

    /// Hands replies over, in the order in which they came.
    fn hand_over_all(&self, found: Vec<(Text, Json)>) {
        let mut places: HashMap<Text, usize> = HashMap::new();
        for (key, payload) in found {
            let place = places.entry(key.clone()).or_default();
            match payload.read::<Reply>("a reply") {
                Ok(reply) => self.hand_over(&key, *place, reply),
                Err(error) => tracing::warn!(%key, %error, "a reply to a command cannot be read"),
            }
            *place += 1;
        }
    }

    fn hand_over(&self, key: &Text, place: usize, reply: Reply) {
        let mut waiting = self.waiting();
        let Some(waiter) = waiting.by_key.get(key) else { return };
        let is_new = place >= waiter.known || matches!(reply.outcome, Answer::Done(_));
        let Some(ended) = reply.ended(waiter.attempt).filter(|_| is_new) else { return };
        if let Some(waiter) = waiting.by_key.remove(key) {
            // Its time may be over just now.
            let _ = waiter.sender.send(ended);
        }
    }
}

/// A participant elsewhere.
struct Asked {
    commands: Commands,
    kind: Text,
}

impl Participant for Asked {
    fn act(&self, call: Call) -> BoxFuture<'static, Ended> {
        let (commands, kind) = (self.commands.clone(), self.kind.clone());
        Box::pin(async move {
            let asked = commands.ask(kind, call).await;
            asked.unwrap_or_else(|error| Ended::Unknown(error.to_string().into()))
        })
    }
}

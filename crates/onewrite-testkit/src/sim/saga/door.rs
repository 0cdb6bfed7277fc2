//! The way from a process to the database. Requests are refused, or lost; answers are lost; some requests
//! land long after their sender has given them up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use onewrite_core::{
    BoxFuture, Code, Error, Incarnation, Partition, Result, Sequence, Text, Timestamp,
    flow::Trace,
    inbox::Gap,
    lease::Fence,
    parking::{ParkedKey, ParkedRecord},
    position::Source,
    saga::{
        Json,
        journal::{Arrived, FindSagas, Journal, ListSagas, SagaHead, SavedSaga},
    },
    store::{
        Batch, Claim, Claimed, Cursor, Find, Item, LeaseState, Op, Outcome, Page, Read, SinkState,
        Store, Watch,
    },
};
use tokio::sync::oneshot;

use super::{
    Trouble,
    process::Process,
    world::{Fault, Inner, World},
};

/// After this long a request is taken for lost.
const TIMEOUT: Duration = Duration::from_millis(40);

pub(super) struct Door {
    pub(super) world: Arc<World>,
    pub(super) process: Arc<Process>,
    /// How many requests were sent: all, those for a definition, and those that give leases back.
    sent: [AtomicUsize; 3],
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Fine,
    Refused,
    /// On the way there.
    Lost,
    /// It lands when its sender has given it up.
    Late,
    /// The answer, on its way back.
    Unanswered,
}

impl Door {
    pub(super) fn new(world: &Arc<World>, process: &Arc<Process>) -> Self {
        let (world, process) = (Arc::clone(world), Arc::clone(process));
        Self { world, process, sent: [const { AtomicUsize::new(0) }; 3] }
    }

    fn way(&self) -> Way {
        let world = &self.world;
        let is_first = self.sent[0].fetch_add(1, Ordering::Relaxed) == 0;
        if is_first && world.has(Trouble::NoStoreAtFirst) {
            return Way::Refused;
        }
        if world.strikes(Fault::Refuse) {
            Way::Refused
        } else if world.strikes(Fault::LoseRequest) {
            Way::Lost
        } else if world.strikes(Fault::Late) {
            Way::Late
        } else if world.strikes(Fault::LoseAnswer) {
            Way::Unanswered
        } else {
            Way::Fine
        }
    }

    /// Has something done in one transaction of the database.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Inner, Timestamp) -> T + Send + 'static,
    ) -> Result<T> {
        self.process.awake().await;
        self.ask_on(self.way(), act).await
    }

    async fn ask_on<T: Send + 'static>(
        &self,
        way: Way,
        act: impl FnOnce(&mut Inner, Timestamp) -> T + Send + 'static,
    ) -> Result<T> {
        let (there, back) = (self.world.travel(), self.world.travel());
        let (sender, answer) = oneshot::channel();
        let there = if way == Way::Late { TIMEOUT + there * 30 } else { there };
        if way != Way::Fine {
            let name = &self.process.name;
            self.world.note(|_| format!("{name}: a request is {way:?}"));
        }
        let world = Arc::clone(&self.world);
        let request = async move {
            tokio::time::sleep(there).await;
            let answer = world.transaction(act);
            tokio::time::sleep(back).await;
            // Its sender may have ended, and the request takes effect all the same.
            let _ = sender.send(answer);
        };
        if !matches!(way, Way::Refused | Way::Lost) {
            tokio::spawn(request);
        }
        let answered = match way {
            Way::Fine => tokio::time::timeout(TIMEOUT, answer).await.ok().and_then(Result::ok),
            Way::Refused => None,
            Way::Lost | Way::Late | Way::Unanswered => {
                tokio::time::sleep(TIMEOUT).await;
                None
            }
        };
        self.process.awake().await;
        answered.ok_or_else(|| match way {
            Way::Refused => not_there(),
            _ => Error::new(Code::CommitUnknown, "the store does not answer"),
        })
    }

    fn nothing<T: Send + 'static>() -> BoxFuture<'static, Result<T>> {
        let error = Error::new(Code::NotFound, "the simulated store keeps sagas alone");
        Box::pin(std::future::ready(Err(error)))
    }
}

fn not_there() -> Error {
    Error::new(Code::StoreUnreachable, "the store is not there")
}

impl Store for Door {
    fn source(&self) -> Source {
        Source { name: "sim".into(), partitions: 1, incarnations: vec![(1, Incarnation(7))] }
    }

    fn now(&self) -> BoxFuture<'_, Result<Timestamp>> {
        Box::pin(self.ask(|_, now| now))
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Outcome>>> {
        Box::pin(async move {
            self.process.awake().await;
            let gives_back = |item: &Item| matches!(item.ops.first(), Some(Op::Release(_)));
            let is_late = self.world.has(Trouble::LateRelease)
                && batch.items.iter().any(gives_back)
                && self.sent[2].fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
            let way = if is_late { Way::Late } else { self.way() };
            let act = move |inner: &mut Inner, now| {
                batch.items.iter().map(|item| inner.apply(now, item)).collect()
            };
            self.ask_on(way, act).await
        })
    }

    fn watch(&self) -> Box<dyn Watch> {
        Box::new(NoWatch)
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Claimed>> {
        Box::pin(self.ask(move |inner, now| {
            let before = inner.tables.epochs();
            let claimed = inner.tables.claim(now, &claim);
            let is_new = |fence: &&Fence| before.get(&fence.partition) != Some(&fence.epoch);
            let taken = claimed.held.iter().filter(is_new);
            let taken: Vec<_> = taken.map(|fence| (fence.partition, fence.epoch)).collect();
            if !taken.is_empty() {
                inner.note(now.0, |_| format!("{}: takes {taken:?}", claim.owner));
            }
            claimed
        }))
    }

    fn cursors<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<Cursor>>> {
        Self::nothing()
    }

    fn read(&self, _: Read) -> BoxFuture<'_, Result<Page>> {
        Self::nothing()
    }

    fn id_at(&self, _: Partition, _: Sequence) -> BoxFuture<'_, Result<Option<Text>>> {
        Self::nothing()
    }

    fn head(&self) -> BoxFuture<'_, Result<Sequence>> {
        Self::nothing()
    }

    fn trimmed(&self) -> BoxFuture<'_, Result<Vec<(Partition, Sequence)>>> {
        Self::nothing()
    }

    fn sinks(&self) -> BoxFuture<'_, Result<Vec<SinkState>>> {
        Self::nothing()
    }

    fn leases(&self) -> BoxFuture<'_, Result<Vec<LeaseState>>> {
        Self::nothing()
    }

    fn parked_keys<'a>(&'a self, _: Option<&'a str>) -> BoxFuture<'a, Result<Vec<ParkedKey>>> {
        Self::nothing()
    }

    fn parked_records<'a>(
        &'a self,
        _: &'a ParkedKey,
        _: usize,
    ) -> BoxFuture<'a, Result<Vec<ParkedRecord>>> {
        Self::nothing()
    }

    fn guards(&self) -> BoxFuture<'_, Result<Vec<Text>>> {
        Self::nothing()
    }

    fn gaps(&self) -> BoxFuture<'_, Result<Vec<Gap>>> {
        Self::nothing()
    }

    fn find(&self, _: Find) -> BoxFuture<'_, Result<Vec<Trace>>> {
        Self::nothing()
    }
}

struct NoWatch;

impl Watch for NoWatch {
    fn changed(&mut self, within: Duration) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(within))
    }
}

impl Journal for Door {
    fn sagas(&self, find: FindSagas) -> BoxFuture<'_, Result<Vec<SavedSaga>>> {
        Box::pin(self.ask(move |inner, now| inner.tables.find(now, &find)))
    }

    fn list<'a>(&'a self, which: &'a ListSagas) -> BoxFuture<'a, Result<Vec<SagaHead>>> {
        let which = which.clone();
        Box::pin(self.ask(move |inner, _| inner.tables.heads(&which)))
    }

    fn arrived(
        &self,
        partitions: Vec<Partition>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Arrived>>> {
        Box::pin(self.ask(move |inner, now| inner.tables.arrived(now, &partitions, limit)))
    }

    fn signals<'a>(
        &'a self,
        name: &'a str,
        about: Vec<Text>,
    ) -> BoxFuture<'a, Result<Vec<(Text, Json)>>> {
        let name = name.to_owned();
        Box::pin(self.ask(move |inner, now| inner.tables.signals(now, &name, &about)))
    }

    fn definition<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Text>>> {
        let is_first = self.sent[1].fetch_add(1, Ordering::Relaxed) == 0;
        if is_first && self.world.has(Trouble::NoDefinitionAtFirst) {
            return Box::pin(std::future::ready(Err(not_there())));
        }
        let id = id.to_owned();
        Box::pin(
            self.ask(move |inner, _| {
                inner.tables.checked(&id).map(|checked| checked.json().clone())
            }),
        )
    }
}

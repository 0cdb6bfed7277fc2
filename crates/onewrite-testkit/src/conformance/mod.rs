//! What a backend has to show: each promise of the contracts as a case of its own.
//!
//! A backend implements a fixture and calls a macro, which makes one test of each case:
//!
//! ```ignore
//! onewrite_testkit::store_suite!(Sqlite::default());
//! onewrite_testkit::broker_suite!(Memory);
//! onewrite_testkit::inbox_suite!(Sqlite::default());
//! ```
//!
//! `all` runs the same cases one after the other. A case panics with the name of the promise that is
//! broken. It makes its own place to work in, so cases can run side by side. What a case cannot
//! provoke in a backend (a power cut, a lost reply) it leaves out and says so on standard output.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a case fails by panicking")]
#![allow(clippy::needless_pass_by_value, reason = "a case that builds its values gives them away")]

pub mod barrier;
pub mod child;
pub mod cursor;
pub mod feed;
pub mod foreign;
pub mod inbox;
pub mod lease;
pub mod list;
pub mod log;
pub mod order;
pub mod parking;
pub mod poison;
pub mod saga;
pub mod signal;
pub mod sink;
pub mod store;
mod suite;

use std::{fmt::Debug, future::Future, sync::Arc, task::Poll, time::Duration};

use onewrite_core::{
    BoxFuture, Delivery, Event, Partition, Record, Result, Sequence,
    broker::{Feed, Mark, Sink},
    inbox::{Inbox, Policy},
    position::START,
    sabotage::Sabotage,
    saga::{
        Ended, Journaling, Json, SagaId, Transacted,
        barrier::{Barrier, Passage},
        journal::Journal,
    },
    store::{Batch, Durability, Item, Op, Outcome, Read, Store},
};

/// How long a case waits for something that has to happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

tokio::task_local! {
    /// The patience of a case that is expected to fail, perhaps by waiting in vain.
    static HURRY: Duration;
}

/// A store backend under test.
pub trait StoreFixture: Sync {
    /// An empty place for a store of `partitions` partitions: a new file, schema or database.
    fn place(&self, partitions: u16) -> BoxFuture<'_, Box<dyn StorePlace>>;
}

/// Where the data of one case lives. Dropping it may remove the data.
pub trait StorePlace: Send + Sync {
    /// Opens the store that lives here. Several handles at the same time stand for several processes;
    /// dropping one and opening another stands for a crash.
    fn open(&self) -> BoxFuture<'_, Arc<dyn Store>>;

    /// Begins a transaction that the engine does not run: a user's own, on its own connection.
    fn begin(&self) -> BoxFuture<'_, Box<dyn UserTx>>;

    /// Inserts a plain row into the log as a program in another language would, with nothing but what
    /// is required, and commits it.
    fn insert<'a>(&'a self, aggregate_id: &'a str) -> BoxFuture<'a, ()>;

    /// Whether commits of `Durability::Durable` reach the disk with the settings in force, after
    /// commits of either kind; `None` when this cannot be told.
    fn reaches_disk(&self) -> BoxFuture<'_, Option<bool>> {
        Box::pin(std::future::ready(None))
    }

    /// Commits `item` in such a way that the reply is lost; `None` when this cannot be provoked.
    fn lose_reply(&self, item: Item) -> BoxFuture<'_, Option<Result<Vec<Outcome>>>> {
        drop(item);
        Box::pin(std::future::ready(None))
    }
}

/// A store of sagas under test.
pub trait JournalFixture: Sync {
    /// An empty place for a store.
    fn journals(&self) -> BoxFuture<'_, Box<dyn JournalPlace>>;
}

/// Where the sagas of one case live. Dropping it may remove the data.
pub trait JournalPlace: Send + Sync {
    /// Opens the store that lives here. Several handles at the same time stand for several processes.
    fn journal(&self) -> BoxFuture<'_, Arc<dyn Journal>>;

    /// Carries out a step in a transaction of the store: its function inserts a row into a table of its
    /// own, and answers so.
    fn carry_out(
        &self,
        answer: Result<Json, Ended>,
        journal: Journaling,
    ) -> BoxFuture<'_, Result<Transacted>>;

    /// The rows of that table that are committed.
    fn carried_out(&self) -> BoxFuture<'_, i64>;
}

/// A participant's barrier under test, with one client.
pub trait BarrierFixture: Sync {
    /// A place with an empty ledger and the barrier's table.
    fn participant(&self) -> BoxFuture<'_, Box<dyn BarrierPlace>>;
}

/// One call of a participant.
#[derive(Debug, Clone)]
pub struct BarrierCall {
    /// What it passes.
    pub barrier: Barrier,
    /// What its effect writes into the ledger.
    pub amount: i64,
    /// Whether its transaction is committed; else it is rolled back.
    pub commits: bool,
}

/// Where a participant and its ledger live. Dropping it may remove the data.
pub trait BarrierPlace: Send + Sync {
    /// Makes the barrier's table, where it is missing.
    fn create(&self) -> BoxFuture<'_, Result<()>>;

    /// Answers a call in a transaction on a connection of its own: passes the barrier, and on
    /// [`Passage::Act`] alone writes the amount into the ledger.
    fn call(&self, call: BarrierCall) -> BoxFuture<'_, Result<Passage>>;

    /// The amounts that were committed, in that order.
    fn ledger(&self) -> BoxFuture<'_, Vec<i64>>;

    /// Forgets what is older than `kept`.
    fn forget(&self, kept: Duration) -> BoxFuture<'_, Result<u64>>;

    /// Makes the rows of a step `hours` older.
    fn age<'a>(&'a self, saga: SagaId, step: &'a str, hours: u32) -> BoxFuture<'a, ()>;
}

/// An open transaction of a user.
pub trait UserTx: Send {
    /// Emits `event` within it.
    fn emit(&mut self, event: Event) -> BoxFuture<'_, Result<()>>;

    /// Commits it.
    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<()>>;

    /// Rolls it back.
    fn rollback(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// A broker backend under test.
pub trait BrokerFixture: Sync {
    /// A sink and the feed at its other end, with nothing in between.
    fn pair(&self) -> BoxFuture<'_, (Arc<dyn Sink>, Box<dyn Feed>)>;

    /// As [`Self::pair`], with a receiver whose marks are `marks`; `None` when the broker passes no
    /// marks.
    #[expect(clippy::type_complexity, reason = "a pair, if there is one")]
    fn pair_with_marks(
        &self,
        marks: Vec<Mark>,
    ) -> BoxFuture<'_, Option<(Arc<dyn Sink>, Box<dyn Feed>)>> {
        drop(marks);
        Box::pin(std::future::ready(None))
    }

    /// A feed that was closed; `None` when feeds of this broker are never closed.
    fn closed(&self) -> BoxFuture<'_, Option<Box<dyn Feed>>> {
        Box::pin(std::future::ready(None))
    }
}

/// An inbox backend under test.
pub trait InboxFixture: Sync {
    /// An empty place for a receiver's database.
    fn place(&self) -> BoxFuture<'_, Box<dyn InboxPlace>>;

    /// Defects to plant in the policies of the cases, to see that these notice them.
    fn sabotage(&self) -> Sabotage {
        Sabotage::default()
    }
}

/// What a scripted handler does with a record, after writing the record's id as its effect.
#[derive(Debug, Clone)]
pub enum Act {
    /// Nothing more.
    Apply,
    /// Emits this event.
    Emit(Box<Event>),
    /// Fails with this reason.
    Refuse(&'static str),
    /// Panics.
    Panic,
}

/// Says what the handler does with a record.
pub type Script = Arc<dyn Fn(&Record) -> Act + Send + Sync>;

/// How long ids are remembered.
#[derive(Debug, Clone, Copy)]
pub struct Remember {
    /// How long ids of foreign and re-driven events are kept.
    pub ids: Duration,
    /// The longest time after which a sender may still repeat an event.
    pub horizon: Duration,
}

impl Default for Remember {
    fn default() -> Self {
        Self { ids: Duration::from_secs(7200), horizon: Duration::from_secs(3600) }
    }
}

/// Where the data of one receiver lives.
pub trait InboxPlace: Send + Sync {
    /// Opens an inbox whose handler inserts the record's id into a table of its own, within the
    /// transaction that it is given, and then does what `script` says. Several at the same time stand
    /// for several processes.
    fn open(
        &self,
        policy: Policy,
        remember: Remember,
        script: Script,
    ) -> BoxFuture<'_, Result<Arc<dyn Inbox>>>;

    /// The store in which the inbox lives, for its parked keys and what handlers emitted.
    fn store(&self) -> BoxFuture<'_, Arc<dyn Store>>;

    /// The ids that handlers inserted and that were committed, in that order. An id may stand there
    /// twice: the table does not refuse it.
    fn effects(&self) -> BoxFuture<'_, Vec<String>>;
}

/// Runs `case`, which is expected to fail because of a planted defect, and returns its complaint.
///
/// # Panics
/// When the case passes: then it would not notice the defect.
pub async fn complaint(case: impl Future<Output = ()> + Send + 'static) -> String {
    let case = HURRY.scope(Duration::from_secs(2), case);
    let error = tokio::spawn(case).await.expect_err("the case passes in spite of the defect");
    let cause = error.into_panic();
    let text = cause.downcast_ref::<String>().cloned();
    text.or_else(|| cause.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}

/// An event of `key`.
fn event(key: &str) -> Event {
    Event::new("Happened", "Thing", key.to_owned())
}

/// An event of `key` with an id.
fn named(id: impl ToString, key: &str) -> Event {
    Event { id: Some(id.to_string().into()), ..event(key) }
}

/// A key of `partition` among `partitions`: the `nth` that there is.
fn key_of(partition: Partition, partitions: u16, nth: usize) -> String {
    let fits = |key: &String| onewrite_core::position::partition_of(key, partitions) == partition;
    (0..).map(|n| format!("key-{n}")).filter(fits).nth(nth).expect("keys reach every partition")
}

/// Commits `items` durably.
async fn commit(store: &dyn Store, items: Vec<Item>) -> Vec<Outcome> {
    let count = items.len();
    let batch = Batch { durability: Durability::Durable, items };
    let outcomes = store.commit(batch).await.expect("the store takes a batch");
    assert_eq!(outcomes.len(), count, "aligned: one outcome for each item");
    outcomes
}

/// Commits `ops` as one item without a fence; says how many rows it touched.
async fn apply(store: &dyn Store, ops: Vec<Op>) -> u64 {
    match commit(store, vec![Item { fence: None, ops }]).await.pop() {
        Some(Outcome::Applied(count)) => count,
        other => panic!("a plain item is not applied: {other:?}"),
    }
}

/// The operation that emits `event`.
fn emits(event: Event) -> Op {
    Op::Emit(event.into())
}

/// Emits `events` in one item.
async fn emit(store: &dyn Store, events: impl IntoIterator<Item = Event>) {
    apply(store, events.into_iter().map(emits).collect()).await;
}

/// A read of every partition from the beginning.
fn everything(store: &dyn Store) -> Read {
    let after = (0..store.source().partitions).map(|partition| (partition, START)).collect();
    Read { after, limit: 1000, bytes_max: 1 << 24, kinds: Vec::new() }
}

/// Reads on from `read` to the end of the log, page by page, and leaves `read` there.
async fn follow(store: &dyn Store, read: &mut Read) -> Vec<Record> {
    let mut records = Vec::new();
    loop {
        let page = store.read(read.clone()).await.expect("the log can be read");
        let before = read.after.clone();
        for (partition, upto) in &page.upto {
            let slot = read.after.iter_mut().find(|(wanted, _)| wanted == partition);
            let slot = slot.expect("paging: `upto` names partitions that were asked for");
            assert!(*upto >= slot.1, "paging: `upto` goes back in partition {partition}");
            slot.1 = *upto;
        }
        records.extend(page.records);
        if !page.more {
            return records;
        }
        assert_ne!(before, read.after, "paging: more is said to follow, but `upto` stands still");
    }
}

/// The whole log.
async fn log(store: &dyn Store) -> Vec<Record> {
    follow(store, &mut everything(store)).await
}

fn ids(records: &[Record]) -> Vec<&str> {
    records.iter().map(Record::id).collect()
}

fn sequences(records: &[Record]) -> Vec<Sequence> {
    records.iter().map(|record| record.sequence).collect()
}

fn deliveries_ids(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(|delivery| delivery.record.id()).collect()
}

/// Polls `future` once and then drops it; says what it came to, if it was ready at once.
async fn poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|cx| match std::pin::Pin::new(&mut future).poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Waits for what has to happen.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let patience = HURRY.try_with(|hurry| *hurry).unwrap_or(PATIENCE);
    match tokio::time::timeout(patience, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {patience:?}"),
    }
}

/// Asserts that two values are the same, naming the promise.
#[track_caller]
fn same<A: PartialEq<B> + Debug, B: Debug>(promise: &str, found: A, expected: B) {
    assert_eq!(found, expected, "{promise}");
}

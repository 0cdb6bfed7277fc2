//! What the tests share: databases, readers that follow the log, and engines at work.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use onewrite_broker_local::{MemoryFeed, MemorySink, memory};
use onewrite_core::{
    BoxFuture, Delivery, Event, Record, Result, Text,
    broker::{Feed, Receipt, Sink},
    inbox::Inbox,
    position::{START, partition_of},
    retry::Backoff,
    sabotage::{Defect, Sabotage},
    store::{Batch, Durability, Item, Op, Outcome, Read, Store},
};
use onewrite_engine::{Receiver, ReceiverOptions, Relay, RelayOptions, Shutdown};
use onewrite_store_postgres::{
    PostgresStore, emit,
    tokio_postgres::{self, Client},
};
use onewrite_testkit::history::{Committed, Verdict, check};
use tokio::task::JoinHandle;

use crate::conformance::{Place, Postgres};

/// How long to wait for something that has to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The leases of the tests' relays.
pub(crate) const LEASE: Duration = Duration::from_millis(400);

/// The name of the sink where there is one only.
pub(crate) const SINK: &str = "payments";

/// Whether the long forms are wanted.
pub(crate) fn extended() -> bool {
    std::env::var_os("ONEWRITE_EXTENDED").is_some_and(|value| value == "1")
}

/// Nothing is broken on purpose.
pub(crate) fn sound() -> Sabotage {
    Sabotage::default()
}

/// With one defect planted.
pub(crate) fn broken(defect: Defect) -> Sabotage {
    Sabotage::default().with(defect)
}

/// A database of its own.
pub(crate) async fn place(partitions: u16) -> Place {
    Postgres::default().place(partitions).await
}

/// A database of its own whose store has `sabotage` planted.
pub(crate) async fn place_with(partitions: u16, sabotage: Sabotage) -> Place {
    Postgres { sabotage, ..Postgres::default() }.place(partitions).await
}

/// Waits until `done`, at most for `limit`; says whether it came about.
pub(crate) async fn within(limit: Duration, mut done: impl AsyncFnMut() -> bool) -> bool {
    let looks = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    tokio::time::timeout(limit, looks).await.is_ok()
}

/// Waits until `done`.
pub(crate) async fn until(what: &str, done: impl AsyncFnMut() -> bool) {
    assert!(within(PATIENCE, done).await, "{what} did not happen");
}

/// An event of `key`, with an id.
pub(crate) fn event(key: impl Into<String>, id: impl Into<String>) -> Event {
    Event { id: Some(id.into().into()), ..Event::new("Happened", "Thing", key.into()) }
}

/// `count` events over `keys` keys in turn; their ids begin with `prefix`.
pub(crate) fn events(prefix: &str, count: usize, keys: usize) -> Vec<Event> {
    (0..count).map(|n| event(format!("k{}", n % keys), format!("{prefix}{n}"))).collect()
}

/// The `nth` key of `partition` among `partitions`.
pub(crate) fn key_of(partition: u16, partitions: u16, nth: usize) -> String {
    let fits = |key: &String| partition_of(key, partitions) == partition;
    (0..).map(|n| format!("k{n}")).filter(fits).nth(nth).unwrap()
}

/// Runs statements.
pub(crate) async fn execute(client: &Client, sql: &str) {
    if let Err(error) = client.batch_execute(sql).await {
        panic!("{sql}: {error:?}");
    }
}

/// The one number that a query brings.
pub(crate) async fn number(client: &Client, sql: &str) -> i64 {
    match client.query_one(sql, &[]).await {
        Ok(row) => row.get(0),
        Err(error) => panic!("{sql}: {error:?}"),
    }
}

/// The texts that a query brings.
pub(crate) async fn texts(client: &Client, sql: &str) -> Vec<String> {
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// The SQLSTATE of what a statement came to; empty when it went well.
pub(crate) fn state<T>(result: &std::result::Result<T, tokio_postgres::Error>) -> String {
    match result {
        Ok(_) => String::new(),
        Err(error) => error.code().map_or_else(|| error.to_string(), |state| state.code().into()),
    }
}

/// Runs `sql` in a transaction and commits it; the SQLSTATE of what refused it, or nothing.
pub(crate) async fn transact(client: &Client, sql: &str) -> String {
    let result = client.batch_execute(&format!("BEGIN; {sql}; COMMIT")).await;
    if result.is_err() {
        execute(client, "ROLLBACK").await;
    }
    state(&result)
}

/// Emits `events` in one transaction.
pub(crate) async fn emit_all(store: &PostgresStore, events: impl IntoIterator<Item = Event>) {
    let events: Vec<Event> = events.into_iter().collect();
    let work = store.write(|tx| {
        Box::pin(async move {
            for event in &events {
                emit(tx, event).await?;
            }
            Ok(())
        })
    });
    work.await.unwrap();
}

/// Emits `event` in a transaction of its own, which may be refused.
pub(crate) async fn try_emit(store: &PostgresStore, event: &Event) -> Result<()> {
    let event = event.clone();
    store.write(|tx| Box::pin(async move { emit(tx, &event).await.map(|_| ()) })).await
}

/// Commits `ops` as one item without a fence.
pub(crate) async fn apply(store: &dyn Store, ops: Vec<Op>) -> u64 {
    match outcome(store, Item { fence: None, ops }).await.unwrap() {
        Outcome::Applied(count) => count,
        other => panic!("a plain item is not applied: {other:?}"),
    }
}

/// What becomes of one item.
pub(crate) async fn outcome(store: &dyn Store, item: Item) -> Result<Outcome> {
    let batch = Batch { durability: Durability::Durable, items: vec![item] };
    store.commit(batch).await.map(|mut outcomes| outcomes.pop().unwrap())
}

/// A reader that goes on from where it was told that it is.
pub(crate) struct Follower {
    read: Read,
    pub(crate) seen: Vec<Record>,
}

impl Follower {
    pub(crate) fn new(store: &dyn Store) -> Self {
        Self::of(0..store.source().partitions)
    }

    /// One that follows some partitions.
    pub(crate) fn of(partitions: impl IntoIterator<Item = u16>) -> Self {
        let after = partitions.into_iter().map(|partition| (partition, START)).collect();
        let read = Read { after, limit: 20, bytes_max: 1 << 24, kinds: Vec::new() };
        Self { read, seen: Vec::new() }
    }

    /// Reads one page; says whether more may follow.
    pub(crate) async fn step(&mut self, store: &dyn Store) -> bool {
        let page = store.read(self.read.clone()).await.unwrap();
        let mut moved = false;
        for record in &page.records {
            let found =
                self.read.after.iter().find(|(partition, _)| *partition == record.partition);
            let after = found.unwrap().1;
            assert!(record.sequence > after, "{} came behind {after}", record.sequence);
        }
        for (partition, upto) in &page.upto {
            let slot = self.read.after.iter_mut().find(|(wanted, _)| wanted == partition).unwrap();
            assert!(*upto >= slot.1, "partition {partition} went back from {} to {upto}", slot.1);
            moved |= *upto > slot.1;
            slot.1 = *upto;
        }
        self.seen.extend(page.records);
        assert!(moved || !page.more, "more is said to follow, but nothing moves");
        page.more
    }

    /// Reads on to the end.
    pub(crate) async fn drain(&mut self, store: &dyn Store) {
        while self.step(store).await {}
    }

    pub(crate) fn position(&self, partition: u16) -> u64 {
        self.read.after.iter().find(|(wanted, _)| *wanted == partition).unwrap().1
    }

    pub(crate) fn ids(&self) -> Vec<&str> {
        self.seen.iter().map(Record::id).collect()
    }

    /// Fails when the order of reading goes back within a partition.
    pub(crate) fn assert_ascending(&self) {
        let mut last: BTreeMap<u16, u64> = BTreeMap::new();
        for record in &self.seen {
            let before = last.insert(record.partition, record.sequence).unwrap_or(START);
            let (sequence, partition) = (record.sequence, record.partition);
            assert!(sequence > before, "{sequence} was read in {partition} after {before}");
        }
    }

    /// What was read, judged by what was committed.
    pub(crate) fn verdict(&self, committed: &Committed) -> Verdict {
        assert!(!committed.is_empty(), "nothing was provoked");
        check(committed, self.seen.iter().map(|record| (&**record.event.order_key(), record.id())))
    }
}

/// The committed pairs of key and id that `sql` brings in order.
pub(crate) async fn committed(client: &Client, sql: &str) -> Committed {
    let mut committed = Committed::default();
    for row in client.query(sql, &[]).await.unwrap() {
        committed.push(row.get::<_, String>(0), row.get::<_, String>(1));
    }
    committed
}

/// Whether nothing of the log waits for `sink`, as far as the store can be asked.
pub(crate) async fn is_settled(store: &dyn Store, sink: &str) -> bool {
    let sinks = store.sinks().await.unwrap_or_default();
    sinks.iter().any(|state| state.name == sink && state.behind == 0)
}

/// Waits until nothing of the log waits for `sink`.
pub(crate) async fn settled(store: &dyn Store, sink: &str) {
    until("the end of the log", async || is_settled(store, sink).await).await;
}

/// A relay or receiver at work.
pub(crate) struct Running {
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start<F: Future<Output = ()> + Send + 'static>(
        run: impl FnOnce(Shutdown) -> F,
    ) -> Self {
        let shutdown = Shutdown::default();
        Self { task: tokio::spawn(run(shutdown.clone())), shutdown }
    }

    pub(crate) fn relay(
        store: &PostgresStore,
        sink: impl Sink + 'static,
        options: RelayOptions,
        owner: &'static str,
    ) -> Self {
        let relay = Relay::new(Arc::new(store.clone()), Arc::new(sink), options, owner);
        Self::start(|shutdown| relay.run(shutdown))
    }

    pub(crate) fn receiver(inbox: Arc<dyn Inbox>, feed: impl Feed + 'static) -> Self {
        let options =
            ReceiverOptions { look_every: Duration::from_millis(20), ..ReceiverOptions::default() };
        Self::start(|shutdown| Receiver::new(inbox, options).run(Box::new(feed), shutdown))
    }

    /// Asks it to end, once what is in work is done.
    pub(crate) fn begin_stop(&self) {
        self.shutdown.begin();
    }

    /// Waits for its end.
    pub(crate) async fn stop(self) {
        self.begin_stop();
        self.task.await.unwrap();
    }

    /// Ends it where it is: what waits for an answer never gets it, and no lease is given back.
    pub(crate) async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// A relay that loses no time.
pub(crate) fn relaying(sink: impl Into<Text>, sabotage: Sabotage) -> RelayOptions {
    RelayOptions {
        lease_ttl: LEASE,
        poll: Duration::from_millis(20),
        backoff: Backoff { initial: Duration::from_millis(2), cap: Duration::from_millis(50) },
        sabotage,
        ..RelayOptions::new(sink)
    }
}

/// A queue of its own within this process.
pub(crate) fn queue() -> (MemorySink, MemoryFeed) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    memory(format!("queue-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// A sink that the test looks at while a relay has it.
#[derive(Debug, Default)]
pub(crate) struct Shared<S>(pub(crate) Arc<S>);

impl<S> Clone for Shared<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Sink> Sink for Shared<S> {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        self.0.publish(batch)
    }
}

//! What the tests of brokers share: a source with its relay, a receiver with its inbox, and who reads
//! which lane. Both are on SQLite; what took effect is compared with what was committed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{path::Path, sync::Arc, time::Duration};

use onewrite_core::{
    Code, Delivery, Error, Event, Record, Text,
    broker::{Feed, Sink},
    inbox::{Inbox, InboxOptions, Policy},
    position::START,
    record::Order,
    retry::Backoff,
    sabotage::Sabotage,
    store::{Read, Store},
};
use onewrite_engine::{Receiver, ReceiverOptions, Relay, RelayOptions, Shutdown};
use onewrite_store_sqlite::{Context, Options, SqliteInbox, SqliteStore, emit};
use tokio::task::JoinHandle;

use crate::history::{Committed, Verdict, check};
pub use crate::server::unique;

/// How long to wait for something that has to happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The partitions of the tests' sources.
pub const PARTITIONS: u16 = 16;

/// Waits until `done`, at most for `limit`; says whether it came about.
pub async fn within(limit: Duration, mut done: impl AsyncFnMut() -> bool) -> bool {
    let looks = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(limit, looks).await.is_ok()
}

/// Waits until `done`.
pub async fn until(what: &str, done: impl AsyncFnMut() -> bool) {
    assert!(within(PATIENCE, done).await, "{what} did not happen");
}

/// An event of `key`, with an id.
pub fn event(key: impl Into<String>, id: impl Into<String>) -> Event {
    Event { id: Some(id.into().into()), ..Event::new("Happened", "Thing", key.into()) }
}

fn other(error: rusqlite::Error) -> Error {
    Error::new(Code::Database, "a test's statement").with_source(error)
}

/// A service whose events are committed.
pub struct Source {
    /// Its database.
    pub store: SqliteStore,
    committed: Committed,
}

impl Source {
    /// A source in `folder`.
    pub fn open(folder: &Path) -> Self {
        let options = Options { partitions: PARTITIONS, ..Options::new(folder.join("shop.db")) };
        Self { store: SqliteStore::open(options).unwrap(), committed: Committed::default() }
    }

    /// Emits `count` events over `keys` keys in turn.
    pub async fn place(&mut self, count: usize, keys: usize) {
        let first = self.committed.len();
        let events: Vec<Event> = (first..first + count)
            .map(|n| event(format!("k{}", n % keys), format!("e{n}")))
            .collect();
        for event in &events {
            self.committed.push(event.order_key().to_string(), &**event.id.as_ref().unwrap());
        }
        let work = move |tx: &rusqlite::Connection| {
            events.iter().try_for_each(|event| emit(tx, event).map(drop))
        };
        self.store.write(work).await.unwrap();
    }

    /// Runs a relay to `sink`.
    pub fn relay(&self, sink: impl Sink + 'static) -> Running {
        relay(&self.store, sink, Sabotage::default())
    }

    /// Whether nothing of the log waits for the relay.
    pub async fn is_settled(&self) -> bool {
        is_settled(&self.store).await
    }

    /// The whole log, as a relay would deliver it.
    pub async fn deliveries(&self) -> Vec<Delivery> {
        let after = (0..PARTITIONS).map(|partition| (partition, START)).collect();
        let read = Read { after, limit: 10_000, bytes_max: 1 << 24, kinds: Vec::new() };
        let mut chain = [START; PARTITIONS as usize];
        let chained = |record: Record| {
            let last = &mut chain[usize::from(record.partition)];
            let previous = std::mem::replace(last, record.sequence);
            Delivery { record, order: Order::Chained { previous } }
        };
        self.store.read(read).await.unwrap().records.into_iter().map(chained).collect()
    }

    /// Events committed.
    pub fn count(&self) -> usize {
        self.committed.len()
    }
}

/// Runs a relay from `store` to `sink`, with a defect planted in it.
pub fn relay(store: &SqliteStore, sink: impl Sink + 'static, sabotage: Sabotage) -> Running {
    let options = RelayOptions {
        lease_ttl: Duration::from_millis(500),
        poll: Duration::from_millis(10),
        backoff: Backoff { initial: Duration::from_millis(2), cap: Duration::from_millis(50) },
        sabotage,
        ..RelayOptions::new("payments")
    };
    let store: Arc<dyn Store> = Arc::new(store.clone());
    let relay = Relay::new(store, Arc::new(sink), options, unique("relay"));
    Running::start(|shutdown| relay.run(shutdown))
}

/// Whether nothing of the log of `store` waits for its relay.
pub async fn is_settled(store: &SqliteStore) -> bool {
    let sinks = store.sinks().await.unwrap();
    sinks.iter().any(|sink| sink.behind == 0)
}

/// A service that reacts: each effect is a row.
pub struct Consumer(
    /// Its database.
    pub SqliteStore,
);

impl Consumer {
    /// A receiver in `folder`.
    pub async fn open(folder: &Path) -> Self {
        let store = SqliteStore::open(Options::new(folder.join("payments.db"))).unwrap();
        let sql = "CREATE TABLE IF NOT EXISTS effect (n INTEGER PRIMARY KEY, key TEXT, id TEXT)";
        store.write(move |tx| tx.execute_batch(sql).map_err(other)).await.unwrap();
        Self(store)
    }

    /// Its database, as a feed wants it.
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.0.clone())
    }

    /// An inbox whose handler writes the effect, unless it is to refuse that key.
    fn inbox(&self, sabotage: Sabotage, refused: &'static str) -> Arc<dyn Inbox> {
        let policy = Policy { sabotage, ..Policy::new("payments") };
        let options = InboxOptions { policy, ..InboxOptions::new("payments") };
        let handler = move |context: &Context<'_>| {
            let event = context.event();
            if **event.order_key() == *refused {
                return Err("refused".into());
            }
            let binds = [&**event.order_key(), context.record().id()];
            context.tx().execute("INSERT INTO effect (key, id) VALUES (?1, ?2)", binds)?;
            Ok(())
        };
        Arc::new(SqliteInbox::new(&self.0, options, handler).unwrap())
    }

    /// Runs a receiver behind `feed`.
    pub fn receive(&self, feed: impl Feed + 'static) -> Running {
        self.run(feed, Sabotage::default(), "")
    }

    /// Runs a receiver with a defect planted in its inbox.
    pub fn receive_with(&self, feed: impl Feed + 'static, sabotage: Sabotage) -> Running {
        self.run(feed, sabotage, "")
    }

    /// Runs a receiver that wants no event of a key.
    pub fn receive_refusing(&self, feed: impl Feed + 'static, key: &'static str) -> Running {
        self.run(feed, Sabotage::default(), key)
    }

    fn run(&self, feed: impl Feed + 'static, sabotage: Sabotage, refused: &'static str) -> Running {
        let inbox = self.inbox(sabotage, refused);
        Running::start(|shutdown| {
            Receiver::new(inbox, ReceiverOptions::default()).run(Box::new(feed), shutdown)
        })
    }

    /// Keys and ids of what took effect, in that order.
    pub async fn effects(&self) -> Vec<(String, String)> {
        let read = |connection: &rusqlite::Connection| {
            let mut statement =
                connection.prepare("SELECT key, id FROM effect ORDER BY n").map_err(other)?;
            let rows =
                statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(other)?;
            rows.collect::<rusqlite::Result<_>>().map_err(other)
        };
        self.0.read_with(read).await.unwrap()
    }

    /// Waits until everything `source` committed took effect, and judges it.
    pub async fn all_of(&self, source: &Source) -> Verdict {
        let done = async || self.effects().await.len() >= source.count();
        if !within(PATIENCE, done).await {
            println!("{} of {} took effect", self.effects().await.len(), source.count());
        }
        self.verdict(source).await
    }

    /// Judges what took effect by what `source` committed.
    pub async fn verdict(&self, source: &Source) -> Verdict {
        assert!(!source.committed.is_empty(), "nothing was provoked");
        let effects = self.effects().await;
        check(&source.committed, effects.iter().map(|(key, id)| (key.as_str(), id.as_str())))
    }
}

/// A relay or receiver at work.
pub struct Running {
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Running {
    fn start<F: Future<Output = ()> + Send + 'static>(run: impl FnOnce(Shutdown) -> F) -> Self {
        let shutdown = Shutdown::default();
        Self { task: tokio::spawn(run(shutdown.clone())), shutdown }
    }

    /// Ends it, once what is in work is done.
    pub async fn stop(self) {
        self.shutdown.begin();
        self.task.await.unwrap();
    }
}

/// How many lanes of the stream each owner reads.
pub async fn lanes_of(store: &Arc<dyn Store>) -> Vec<(Option<Text>, usize)> {
    let mut out: Vec<(Option<Text>, usize)> = Vec::new();
    for lease in store.leases().await.unwrap() {
        if !lease.scope.starts_with("feed/") {
            continue;
        }
        match out.iter_mut().find(|(owner, _)| *owner == lease.owner) {
            Some((_, count)) => *count += 1,
            None => out.push((lease.owner, 1)),
        }
    }
    out.sort();
    out
}

//! What the tests share: a source, a receiver, and what runs between them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::Router;
use onewrite::{
    Event, MemoryFeed, MemorySink, Receiver, ReceiverOptions, Record, Relay, RelayOptions,
    Shutdown, Store, Text,
    broker::{Feed, Sink},
    http::{HttpFeed, HttpFeedOptions, HttpSink, HttpSinkOptions},
    inbox::{Inbox, Policy},
    memory, other,
    retry::Backoff,
    sabotage::{Defect, Sabotage},
    sqlite::{
        Context, HandlerError, InboxOptions, Options, SqliteInbox, SqliteStore, emit, rusqlite,
    },
    store::Cursor,
};
use onewrite_testkit::history::{Committed, Verdict, check};
use tokio::{net::TcpListener, task::JoinHandle};

/// How long to wait for something that has to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The leases of the tests' relays.
pub(crate) const LEASE: Duration = Duration::from_millis(240);

/// The name of the sink where there is one only.
pub(crate) const SINK: &str = "payments";

/// Nothing is broken on purpose.
pub(crate) fn sound() -> Sabotage {
    Sabotage::default()
}

/// With one defect planted.
pub(crate) fn broken(defect: Defect) -> Sabotage {
    Sabotage::default().with(defect)
}

/// Waits until `done`, at most for `limit`; says whether it came about.
pub(crate) async fn within(limit: Duration, mut done: impl AsyncFnMut() -> bool) -> bool {
    let looks = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
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

/// How to open a database.
pub(crate) fn options(path: PathBuf, partitions: u16, sabotage: Sabotage) -> Options {
    Options { partitions, sabotage, ..Options::new(path) }
}

/// Adds a row to the ledger, which says what was committed, and in which order.
pub(crate) const LEDGER: &str = "INSERT INTO ledger (key, id) VALUES (?1, ?2)";

/// A service whose rows and events are one commit.
#[derive(Clone)]
pub(crate) struct Source(pub(crate) SqliteStore);

impl Source {
    /// `shop.db` in `folder`, with a ledger.
    pub(crate) async fn open(folder: &Path, partitions: u16, sabotage: Sabotage) -> Self {
        Self::open_with(options(folder.join("shop.db"), partitions, sabotage)).await
    }

    pub(crate) async fn open_with(options: Options) -> Self {
        let store = SqliteStore::open(options).unwrap();
        execute(&store, "CREATE TABLE IF NOT EXISTS ledger (n INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT, id TEXT)").await;
        Self(store)
    }

    /// Emits `events` in one transaction, together with their rows in the ledger.
    pub(crate) async fn place(&self, events: impl IntoIterator<Item = Event>) {
        let events: Vec<Event> = events.into_iter().collect();
        let work = move |tx: &rusqlite::Connection| {
            for event in &events {
                let binds = [event.order_key(), event.id.as_ref().unwrap()].map(|text| &**text);
                tx.execute(LEDGER, binds).map_err(other)?;
                emit(tx, event)?;
            }
            Ok(())
        };
        self.0.write(work).await.unwrap();
    }

    /// What was committed, as the ledger has it.
    pub(crate) async fn committed(&self) -> Committed {
        let mut committed = Committed::default();
        for (key, id) in pairs(&self.0, "SELECT key, id FROM ledger ORDER BY n").await {
            committed.push(key, id);
        }
        committed
    }

    pub(crate) async fn cursor(&self, sink: &str, partition: u16) -> Cursor {
        let cursors = self.0.cursors(sink).await.unwrap();
        cursors.into_iter().find(|cursor| cursor.partition == partition).unwrap()
    }

    /// Whether nothing of the log waits for `sink`.
    pub(crate) async fn is_settled(&self, sink: &str) -> bool {
        let sinks = self.0.sinks().await.unwrap();
        sinks.iter().any(|state| state.name == sink && state.behind == 0)
    }

    /// Waits until nothing of the log waits for `sink`.
    pub(crate) async fn settled(&self, sink: &str) {
        until("the end of the log", async || self.is_settled(sink).await).await;
    }

    /// Waits for the next renewal of a lease: a relay renews only when no request of its is under way.
    pub(crate) async fn renewed(&self) {
        let expiry = async || {
            let leases = self.0.leases().await.unwrap();
            leases.first().map(|lease| lease.expires_at)
        };
        let before = expiry().await;
        until("a renewal", async || expiry().await > before).await;
    }

    pub(crate) async fn count(&self, table: &str) -> i64 {
        count(&self.0, table).await
    }
}

/// A service that reacts: each effect is a row.
#[derive(Clone)]
pub(crate) struct Consumer(pub(crate) SqliteStore);

/// Inserts an effect.
pub(crate) const EFFECT: &str = "INSERT INTO effect (key, id) VALUES (?1, ?2)";

impl Consumer {
    /// `payments.db` in `folder`, with a table of effects that refuses no repetition.
    pub(crate) async fn open(folder: &Path) -> Self {
        let store = SqliteStore::open(Options::new(folder.join("payments.db"))).unwrap();
        execute(
            &store,
            "CREATE TABLE IF NOT EXISTS effect (n INTEGER PRIMARY KEY, key TEXT, id TEXT)",
        )
        .await;
        Self(store)
    }

    /// An inbox whose handler does `react` and then writes the effect.
    pub(crate) fn inbox_with(
        &self,
        policy: Policy,
        react: impl Fn(&Context<'_>) -> Result<(), HandlerError> + Send + Sync + 'static,
    ) -> Arc<dyn Inbox> {
        let options = InboxOptions { policy, ..InboxOptions::new("payments") };
        let handler = move |context: &Context<'_>| {
            react(context)?;
            let event = context.event();
            context.tx().execute(EFFECT, [&**event.order_key(), context.record().id()])?;
            Ok(())
        };
        Arc::new(SqliteInbox::new(&self.0, options, handler).unwrap())
    }

    /// An inbox whose handler writes the effect.
    pub(crate) fn inbox(&self, sabotage: Sabotage) -> Arc<dyn Inbox> {
        self.inbox_with(Policy { sabotage, ..Policy::new("payments") }, |_| Ok(()))
    }

    /// The effects in the order in which they were committed.
    pub(crate) async fn effects(&self) -> Vec<(String, String)> {
        pairs(&self.0, "SELECT key, id FROM effect ORDER BY n").await
    }

    /// Judges the effects by what `source` committed.
    pub(crate) async fn verdict(&self, source: &Source) -> Verdict {
        judge(&source.committed().await, &self.effects().await)
    }
}

pub(crate) fn judge(committed: &Committed, effects: &[(String, String)]) -> Verdict {
    assert!(!committed.is_empty(), "nothing was provoked");
    check(committed, effects.iter().map(|(key, id)| (key.as_str(), id.as_str())))
}

pub(crate) async fn execute(store: &SqliteStore, sql: &'static str) {
    store.write(move |tx| tx.execute_batch(sql).map_err(other)).await.unwrap();
}

pub(crate) async fn pairs(store: &SqliteStore, sql: &'static str) -> Vec<(String, String)> {
    let read = move |connection: &rusqlite::Connection| {
        let mut statement = connection.prepare(sql).map_err(other)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(other)?;
        rows.collect::<rusqlite::Result<_>>().map_err(other)
    };
    store.read_with(read).await.unwrap()
}

pub(crate) async fn count(store: &SqliteStore, table: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table}");
    let read = move |connection: &rusqlite::Connection| {
        connection.query_row(&sql, [], |row| row.get(0)).map_err(other)
    };
    store.read_with(read).await.unwrap()
}

/// The record's key and id, as effects are noted.
pub(crate) fn effect(record: &Record) -> (String, String) {
    (record.event.order_key().to_string(), record.id().to_owned())
}

/// A relay or receiver at work.
pub(crate) struct Running {
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Running {
    fn start<F: Future<Output = ()> + Send + 'static>(run: impl FnOnce(Shutdown) -> F) -> Self {
        let shutdown = Shutdown::default();
        Self { task: tokio::spawn(run(shutdown.clone())), shutdown }
    }

    /// A relay of `source`.
    pub(crate) fn relay(
        source: &Source,
        sink: impl Sink + 'static,
        options: RelayOptions,
        owner: &'static str,
    ) -> Self {
        let relay = Relay::new(Arc::new(source.0.clone()), Arc::new(sink), options, owner);
        Self::start(|shutdown| relay.run(shutdown))
    }

    /// A receiver.
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
        poll: Duration::from_millis(10),
        backoff: Backoff { initial: Duration::from_millis(2), cap: Duration::from_millis(20) },
        sabotage,
        ..RelayOptions::new(sink)
    }
}

/// A queue of its own within this process.
pub(crate) fn queue() -> (MemorySink, MemoryFeed) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    memory(format!("queue-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// Serves `router` on a free port.
pub(crate) async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

/// Serves `inbox` over HTTP, marks included.
pub(crate) async fn serve_inbox(inbox: &Arc<dyn Inbox>) -> (SocketAddr, HttpFeed) {
    let inbox = Arc::clone(inbox);
    let marks: onewrite::http::MarksOf = Arc::new(move |source, life| {
        let inbox = Arc::clone(&inbox);
        Box::pin(async move { inbox.marks(&source, life).await })
    });
    let options = HttpFeedOptions { marks: Some(marks), ..HttpFeedOptions::default() };
    let (router, feed) = onewrite::http::receiver(options);
    (serve(router).await, feed)
}

/// How to send to a local port.
pub(crate) fn http_options(address: SocketAddr) -> HttpSinkOptions {
    HttpSinkOptions {
        allow_private: true,
        timeout: Duration::from_millis(300),
        ..HttpSinkOptions::new(format!("http://{address}/"))
    }
}

/// A sink that sends to a local port.
pub(crate) fn http_sink(address: SocketAddr) -> HttpSink {
    HttpSink::new(http_options(address)).unwrap()
}

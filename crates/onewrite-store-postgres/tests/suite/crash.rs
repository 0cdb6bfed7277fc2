//! H13, S33: the server is killed, with what it had not written, in the middle of everything.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use onewrite_core::{
    BoxFuture, Delivery, Result,
    broker::{Receipt, Sink},
    sabotage::{Defect, Sabotage},
    saga::{
        SagaId,
        journal::{FindSagas, Journal as _},
    },
    store::{Batch, Durability, From, Item, Op, Outcome, Store as _},
};
use onewrite_engine::RelayOptions;
use onewrite_store_postgres::{Options, PostgresStore, emit};
use onewrite_testkit::{conformance, history::Verdict, server::Postgres};
use tokio::task::JoinSet;

use crate::{
    conformance::connect,
    consumer::Consumer,
    rig::{
        Running, SINK, Shared, broken, committed, event, execute, extended, outcome, place,
        relaying, settled, sound,
    },
};

const WRITERS: usize = 3;

fn turns() -> usize {
    if extended() { 1_000 } else { 60 }
}

async fn open(url: &str, sabotage: Sabotage) -> PostgresStore {
    let options = Options { partitions: 4, sabotage, ..Options::from_url(url).unwrap() };
    PostgresStore::open(options).await.unwrap()
}

/// Kills the server after some of the batches: they have taken effect, and nobody has been told.
struct Killing<S> {
    onward: S,
    server: Arc<Postgres>,
    batches: AtomicUsize,
    kills: AtomicUsize,
}

impl<S: Sink> Sink for Killing<S> {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        Box::pin(async move {
            let receipts = self.onward.publish(batch).await;
            let count = self.batches.fetch_add(1, Ordering::SeqCst);
            if count % 4 == 2 && self.kills.fetch_add(1, Ordering::SeqCst) < 3 {
                let server = Arc::clone(&self.server);
                let killed = tokio::task::spawn_blocking(move || {
                    server.kill();
                    server
                });
                let server = killed.await.unwrap();
                // It comes back while the relay tries to go on.
                tokio::spawn(async move { server.restart().await.unwrap() });
            }
            receipts
        })
    }
}

/// Emits one event, whatever comes between, with its row in the ledger: repeating changes nothing.
async fn write(store: &PostgresStore, key: &str, turn: usize) {
    loop {
        let (key, id) = (key.to_owned(), format!("{key}-{turn}"));
        let work = store.write(|tx| {
            Box::pin(async move {
                let sql = "INSERT INTO ledger (key, id) VALUES ($1, $2) ON CONFLICT DO NOTHING";
                let inserted = tx.execute(sql, &[&key, &id]).await;
                if inserted.map_err(|error| {
                    onewrite_core::Error::new(onewrite_core::Code::Database, "").with_source(error)
                })? == 1
                {
                    emit(tx, &event(key, id)).await?;
                }
                Ok(())
            })
        });
        if work.await.is_ok() {
            return;
        }
        // The server is away; how long it takes to come back is its own affair.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

struct After {
    verdict: Verdict,
    kills: usize,
}

async fn kill_the_server(inbox: Sabotage) -> After {
    let server = Arc::new(Postgres::start().await.unwrap());
    server.create_database("shop").await.unwrap();
    let url = server.url("shop");
    let store = open(&url, sound()).await;
    let ledger = "CREATE TABLE ledger (n bigserial, key text, id text PRIMARY KEY)";
    execute(&connect(&url).await, ledger).await;
    let consumer = Consumer::new().await;
    let (onward, receiver) = consumer.receive(inbox);
    let zero = AtomicUsize::default;
    let killing = Shared(Arc::new(Killing {
        onward,
        server: Arc::clone(&server),
        batches: zero(),
        kills: zero(),
    }));
    let options = RelayOptions { batch_max: 4, ..relaying(SINK, sound()) };
    let relay = Running::relay(&store, killing.clone(), options, "one");
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            for turn in 0..turns() {
                write(&store, &format!("k{writer}"), turn).await;
            }
        });
    }
    writers.join_all().await;
    settled(&store, SINK).await;
    relay.stop().await;
    receiver.stop().await;
    let committed = committed(&connect(&url).await, "SELECT key, id FROM ledger ORDER BY n").await;
    assert_eq!(committed.len(), WRITERS * turns());
    After {
        verdict: consumer.verdict(&committed).await,
        kills: killing.0.kills.load(Ordering::SeqCst),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_acknowledged_takes_effect_once_although_the_server_dies() {
    let after = kill_the_server(sound()).await;
    assert!(after.kills >= 3, "the server died {} times", after.kills);
    assert!(after.verdict.is_clean(), "{}", after.verdict);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_deduplication_a_crash_repeats_effects() {
    let after = kill_the_server(broken(Defect::NoDedup)).await;
    assert!(after.verdict.duplicated.count > 0, "nothing noticed: {}", after.verdict);
}

/// Acknowledges writes and kills the server at once, some times over; how many are lost.
async fn lose_after_acknowledgement(sabotage: Sabotage, act: Act) -> usize {
    // What is not synced by its own commit stays unsynced for long enough.
    let server =
        Postgres::start_with(&[("wal_writer_delay", "10s"), ("autovacuum", "off")]).await.unwrap();
    server.create_database("shop").await.unwrap();
    let url = server.url("shop");
    let mut lost = 0;
    for round in 0..3 {
        let store = open(&url, sabotage).await;
        let found = act.run(&store, &url, round).await;
        server.kill();
        drop(store);
        server.restart().await.unwrap();
        let store = open(&url, sabotage).await;
        lost += usize::from(!found.is_there(&store).await);
    }
    lost
}

#[derive(Clone, Copy)]
enum Act {
    /// A durable batch of the engine.
    Subscribe,
    /// A transaction of a session that does not wait for the disk, without an event.
    Careless,
    /// The same with an event.
    CarelessWithEvent,
}

/// What was acknowledged.
enum Acknowledged {
    Sink(String),
    Event(String),
    Row(i32),
}

impl Act {
    async fn run(self, store: &PostgresStore, url: &str, round: i32) -> Acknowledged {
        let name = format!("s{round}");
        if let Self::Subscribe = self {
            let op = Op::Subscribe { sink: name.clone().into(), from: From::Now };
            let applied = outcome(store, Item { fence: None, ops: vec![op] }).await.unwrap();
            assert!(matches!(applied, Outcome::Applied(_)));
            return Acknowledged::Sink(name);
        }
        let client = connect(url).await;
        execute(
            &client,
            "CREATE TABLE IF NOT EXISTS row (n integer); SET synchronous_commit = off; BEGIN",
        )
        .await;
        execute(&client, &format!("INSERT INTO row VALUES ({round})")).await;
        if let Self::CarelessWithEvent = self {
            let sql = format!("SELECT onewrite.emit('Thing', 'k', 'Happened', id => '{name}')");
            execute(&client, &sql).await;
        }
        execute(&client, "COMMIT").await;
        if let Self::Careless = self { Acknowledged::Row(round) } else { Acknowledged::Event(name) }
    }
}

impl Acknowledged {
    async fn is_there(&self, store: &PostgresStore) -> bool {
        match self {
            Self::Sink(name) => store.sinks().await.unwrap().iter().any(|sink| sink.name == **name),
            Self::Event(id) => {
                let id = id.as_str().to_owned().into();
                !store.find(onewrite_core::store::Find::Id(id)).await.unwrap().is_empty()
            }
            Self::Row(n) => {
                let client = store.work().await.unwrap();
                // The table itself may be gone.
                let found = client.query("SELECT FROM row WHERE n = $1", &[n]).await;
                found.is_ok_and(|rows| !rows.is_empty())
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_crash_of_the_server() {
    assert_eq!(lose_after_acknowledgement(sound(), Act::Subscribe).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_syncs_a_crash_of_the_server_loses_acknowledged_writes() {
    assert!(
        lose_after_acknowledgement(broken(Defect::NoSync), Act::Subscribe).await > 0,
        "nothing noticed"
    );
}

/// An event makes its transaction durable, whatever its session says; the same one without is lost.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_careless_session_is_as_durable_as_any() {
    assert_eq!(lose_after_acknowledgement(sound(), Act::CarelessWithEvent).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_careless_session_without_an_event_loses_its_rows() {
    assert!(
        lose_after_acknowledgement(sound(), Act::Careless).await > 0,
        "the crash loses nothing"
    );
}

/// A database that does not wait for the disk by default does not weaken what the engine acknowledges.
#[tokio::test(flavor = "multi_thread")]
async fn a_durable_batch_is_durable_whatever_the_default_of_the_database() {
    let server =
        Postgres::start_with(&[("wal_writer_delay", "10s"), ("synchronous_commit", "off")])
            .await
            .unwrap();
    let url = server.url("postgres");
    let store = open(&url, sound()).await;
    let done = Act::Subscribe.run(&store, &url, 1).await;
    server.kill();
    drop(store);
    server.restart().await.unwrap();
    assert!(
        done.is_there(&open(&url, sound()).await).await,
        "a durable batch was acknowledged and is gone"
    );
}

/// An inbox's receipt lets the sender forget the event: what it acknowledges must be on disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_reaction_is_durable_whatever_the_default_of_the_database() {
    let source = place(1).await;
    let sender = source.store().await;
    let server =
        Postgres::start_with(&[("wal_writer_delay", "10s"), ("synchronous_commit", "off")])
            .await
            .unwrap();
    let receiving = source.at(&server.url("postgres"));
    let consumer = Consumer::at(receiving.clone()).await;
    let (onward, receiver) = consumer.receive_well();
    let relay = Running::relay(&sender, onward, relaying(SINK, sound()), "one");
    crate::rig::emit_all(&sender, crate::rig::events("a", 3, 1)).await;
    settled(&sender, SINK).await;
    relay.stop().await;
    server.kill();
    receiver.stop().await;
    server.restart().await.unwrap();
    let consumer = Consumer::at(receiving).await;
    assert_eq!(consumer.effects().await.len(), 3, "what the sender was told to forget is gone");
}

/// A saga that was told to be started is there after a crash, whatever the default of the database: that its
/// batch is written in a way of its own makes no difference.
async fn sagas_lost(sabotage: Sabotage) -> usize {
    let server =
        Postgres::start_with(&[("wal_writer_delay", "10s"), ("synchronous_commit", "off")])
            .await
            .unwrap();
    let url = server.url("postgres");
    let store = open(&url, sabotage).await;
    conformance::signal::begin_to_wait(&store).await;
    let start = conformance::saga::started(9);
    let batch = Batch { durability: Durability::Durable, items: vec![start] };
    let outcomes = store.commit(batch).await.unwrap();
    assert!(matches!(outcomes[..], [Outcome::Applied(1)]), "{outcomes:?}");
    server.kill();
    drop(store);
    server.restart().await.unwrap();
    let store = open(&url, sound()).await;
    1 - store.sagas(FindSagas::Id(SagaId(9))).await.unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_is_durable_whatever_the_default_of_the_database() {
    assert_eq!(sagas_lost(sound()).await, 0, "a start was acknowledged and is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_syncs_a_crash_of_the_server_loses_sagas() {
    assert_eq!(sagas_lost(broken(Defect::NoSync)).await, 1, "nothing noticed");
}

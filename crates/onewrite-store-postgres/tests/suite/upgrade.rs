//! Two versions side by side, and programs that create the schema at the same time.

use onewrite_core::{
    Code, Event, Result,
    store::{Item, Op, Outcome, Store as _},
};
use onewrite_store_postgres::{Options, PostgresStore};
use tokio::task::JoinSet;

use crate::{
    conformance::connect,
    consumer::Consumer,
    rig::{
        Follower, Running, SINK, committed, emit_all, event, execute, number, outcome, place,
        relaying, settled, sound, state, try_emit, until,
    },
};

/// What a later version may do while programs of this one work: it only adds.
const EXPAND: &str = "ALTER TABLE onewrite.outbox ADD COLUMN tenant text;
    ALTER TABLE onewrite.log ADD COLUMN tenant text;
    ALTER TABLE onewrite.parked ADD COLUMN tenant text;
    ALTER TABLE onewrite.cursor ADD COLUMN lag bigint;
    ALTER TABLE onewrite.lease ADD COLUMN zone text;
    ALTER TABLE onewrite.inbox ADD COLUMN zone text NOT NULL DEFAULT '';
    ALTER TABLE onewrite.trimmed ADD COLUMN at timestamptz;
    ALTER TABLE onewrite.history ADD COLUMN tenant text;
    ALTER TABLE onewrite.source ADD COLUMN zone text;
    CREATE TABLE onewrite.tenant (name text);
    UPDATE onewrite.source SET schema_version = 99, min_compatible = 1";

#[tokio::test(flavor = "multi_thread")]
async fn a_program_goes_on_while_a_later_version_expands_the_schema() {
    let place = place(4).await;
    let (store, client) = (place.store().await, place.connect().await);
    // The receiver's marks are in the same database, and are migrated as well.
    let consumer = Consumer::at(place.clone()).await;
    let (sink, receiver) = consumer.receive_well();
    let relay = Running::relay(&store, sink, relaying(SINK, sound()), "one");
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 0..150 {
                let key = format!("k{}", n % 7);
                let (one, other) = (event(&key, format!("e{n}")), event(&key, format!("f{n}")));
                // The migration's locks and a writer's may cross: the server ends one of them.
                while !let_through(try_emit(&store, &one).await) {}
                while !let_through(append(&store, &other).await) {}
            }
        }
    });
    until("some traffic", async || store.head().await.unwrap() > 50).await;
    execute(&client, "SET lock_timeout = '5s'").await;
    let expand = format!("BEGIN; {EXPAND}; COMMIT");
    until("the migration", async || {
        let done = state(&client.batch_execute(&expand).await);
        if done.is_empty() {
            return true;
        }
        execute(&client, "ROLLBACK").await;
        assert!(matches!(&*done, "55P03" | "40P01"), "{done}");
        false
    })
    .await;
    writer.await.unwrap();
    settled(&store, SINK).await;
    relay.stop().await;
    receiver.stop().await;
    let committed = committed(&client, "SELECT key, id FROM onewrite.log ORDER BY sequence").await;
    let verdict = consumer.verdict(&committed).await;
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!(committed.len(), 300);
    // Programs of this version still open it, and leave its version alone.
    drop(place.store().await);
    assert_eq!(number(&client, "SELECT schema_version::bigint FROM onewrite.source").await, 99);
}

/// Whether the server let a write through, rather than end it for somebody else's locks.
fn let_through<T>(written: Result<T>) -> bool {
    match written {
        Ok(_) => true,
        Err(error) if error.code() == Code::StoreBusy => false,
        Err(error) => panic!("{error}"),
    }
}

async fn append(store: &PostgresStore, event: &Event) -> Result<Outcome> {
    outcome(store, Item { fence: None, ops: vec![Op::Emit(event.clone().into())] }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_needs_a_later_program_is_refused() {
    let place = place(4).await;
    let (store, client) = (place.store().await, place.connect().await);
    execute(&client, "UPDATE onewrite.source SET schema_version = 99, min_compatible = 99").await;
    let refused = PostgresStore::open(Options::from_url(&place.url).unwrap()).await.err().unwrap();
    assert_eq!(refused.code(), Code::SchemaUnsupported);
    assert!(refused.to_string().contains("version 99"), "{refused}");
    execute(&client, "UPDATE onewrite.source SET min_compatible = 1").await;
    PostgresStore::open(Options::from_url(&place.url).unwrap()).await.unwrap();
    drop(store);
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_create_the_schema_at_once_agree() {
    let place = place(4).await;
    let mut programs = JoinSet::new();
    for n in 0..6 {
        let source = Some(format!("from-{n}").into());
        let options = Options { source, partitions: 4, ..Options::from_url(&place.url).unwrap() };
        programs.spawn(PostgresStore::open(options));
    }
    let mut sources = Vec::new();
    while let Some(opened) = programs.join_next().await {
        let store = opened.unwrap().unwrap();
        emit_all(&store, [event("k", format!("e{}", sources.len()))]).await;
        sources.push(store.source());
    }
    assert!(sources.iter().all(|source| *source == sources[0]), "{sources:?}");
    let store = place.store().await;
    let mut follower = Follower::new(&store);
    follower.drain(&store).await;
    assert_eq!(follower.seen.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_schema_is_created_only_when_wanted() {
    let place = place(4).await;
    let options = Options { create: false, ..Options::from_url(&place.url).unwrap() };
    let refused = PostgresStore::open(options.clone()).await.err().unwrap();
    assert_eq!(refused.code(), Code::SchemaMissing, "{refused}");
    let client = connect(&place.url).await;
    let there = "SELECT count(*) FROM pg_namespace WHERE nspname = 'onewrite'";
    assert_eq!(number(&client, there).await, 0);
    drop(place.store().await);
    PostgresStore::open(options).await.unwrap();
}

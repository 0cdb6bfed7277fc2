//! Roles: what each may do, and what it may not.

use std::sync::Arc;

use onewrite_broker_local::NullSink;
use onewrite_core::{
    BoxFuture, Code, Event,
    store::{From, Item, Op, Outcome, Store as _},
};
use onewrite_engine::{Retention, Sweeper};
use onewrite_store_postgres::{Copied, Options, PostgresStore, emit, tokio_postgres::Client};
use onewrite_testkit::{
    conformance::{self, JournalFixture, JournalPlace},
    server,
};

use crate::{
    conformance::{Place, connect},
    consumer::Consumer,
    rig::{
        Follower, Running, SINK, Shared, apply, emit_all, event, events, execute, number, outcome,
        place, relaying, settled, sound, state, transact, until,
    },
};

const DENIED: &str = "42501";
const EMIT: &str = "SELECT onewrite.emit('Thing', 'k', 'Happened')";
const INSERT: &str = "INSERT INTO onewrite.outbox (aggregatetype, aggregateid, type, payload) VALUES ('Thing', 'k', 'Happened', '{}')";

/// The URL of `place` for a new user who is a member of `role`, if of any.
async fn login(place_url: &str, role: Option<&str>) -> String {
    let admin = connect(place_url).await;
    let user = server::unique("user");
    execute(&admin, &format!("CREATE ROLE {user} LOGIN PASSWORD 'secret'")).await;
    if let Some(role) = role {
        execute(&admin, &format!("GRANT {role} TO {user}")).await;
    }
    let (_, rest) = place_url.split_once('@').unwrap();
    format!("postgres://{user}:secret@{rest}")
}

struct Town {
    place: Place,
    store: PostgresStore,
    url: String,
    client: Client,
}

async fn town(role: &str) -> Town {
    let place = place(4).await;
    let store = place.store().await;
    let url = login(&place.url, Some(role)).await;
    let client = connect(&url).await;
    Town { place, store, url, client }
}

async fn open(url: &str) -> PostgresStore {
    PostgresStore::open(Options { create: false, ..Options::from_url(url).unwrap() }).await.unwrap()
}

/// Fails unless each statement is refused for lack of rights.
async fn assert_denied(client: &Client, statements: &[&str]) {
    for sql in statements {
        assert_eq!(state(&client.batch_execute(sql).await), DENIED, "{sql}");
    }
}

/// What nobody but the owner of the schema may do, with data of others.
const OWNERS: &[&str] = &[
    "INSERT INTO onewrite.log SELECT * FROM onewrite.log",
    "UPDATE onewrite.log SET payload = NULL",
    "INSERT INTO onewrite.incarnation SELECT 7, 'x'",
    "SELECT onewrite.begin_life('forked')",
    "SELECT nextval('onewrite.sequence')",
    "DROP TABLE onewrite.log",
    "CREATE TABLE onewrite.mine (n integer)",
];

#[tokio::test(flavor = "multi_thread")]
async fn who_may_emit_may_do_nothing_else() {
    let Town { place, store, url, client } = town("onewrite_emit").await;
    execute(&client, EMIT).await;
    execute(&client, INSERT).await;
    assert_eq!(transact(&client, &format!("{INSERT}; {EMIT}")).await, "");
    execute(&connect(&place.url).await, "UPDATE onewrite.source SET placement = 'emit'").await;
    execute(&client, EMIT).await;
    let mut rust = connect(&url).await;
    let tx = rust.transaction().await.unwrap();
    emit(&tx, &event("k", "by-rust")).await.unwrap();
    tx.commit().await.unwrap();
    let mut follower = Follower::new(&store);
    follower.drain(&store).await;
    assert_eq!(follower.seen.len(), 6);
    assert!(follower.seen.iter().all(|record| record.source == store.source().name));
    assert_denied(&client, OWNERS).await;
    assert_denied(
        &client,
        &[
            "SELECT * FROM onewrite.log",
            "SELECT * FROM onewrite.log_0",
            "SELECT * FROM onewrite.outbox",
            "DELETE FROM onewrite.outbox",
            "SELECT * FROM onewrite.cursor",
            "UPDATE onewrite.cursor SET sequence = 0",
            "UPDATE onewrite.source SET name = 'another'",
            "UPDATE onewrite.lease SET owner = 'me'",
            "TRUNCATE onewrite.log_0",
            "SELECT * FROM onewrite.horizon()",
            "SELECT * FROM onewrite.claim('relay/x', 1, 'me', interval '1 s', true)",
            "SELECT setval('onewrite.asleep', 1)",
            "SELECT onewrite.receive('c', 's', 'i')",
        ],
    )
    .await;
}

/// What takes arrays is for the library, and may be called by anybody who may emit: it checks as much.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_emit_cannot_get_around_the_checks() {
    let Town { store, client, .. } = town("onewrite_emit").await;
    let append = |id: &str, key: &str, payload: &str| {
        format!(
            "SELECT onewrite.append(ARRAY[NULL::timestamptz], ARRAY[{id}], ARRAY['Happened'], ARRAY['Thing'], ARRAY['k'],
                ARRAY[{key}], ARRAY['text/plain'], ARRAY[1::bigint], ARRAY[NULL], ARRAY[NULL], ARRAY[NULL], ARRAY[NULL],
                ARRAY[NULL], ARRAY[NULL], ARRAY[NULL], ARRAY[NULL], ARRAY[{payload}::bytea])"
        )
    };
    for (sql, expected) in [
        (append("''", "'k'", "NULL"), "OW006"),
        (append("'e'", "''", "NULL"), "OW006"),
        (append("'e'", "NULL", "NULL"), "OW006"),
        (append("'e'", "'k'", "convert_to(repeat('x', 2000000), 'UTF8')"), "OW005"),
        (append("'e'", "'k'", "'fine'"), ""),
    ] {
        assert_eq!(state(&client.batch_execute(&sql).await), expected, "{sql}");
    }
    let mut follower = Follower::new(&store);
    follower.drain(&store).await;
    assert_eq!(follower.ids(), ["e"]);
    assert_eq!(follower.seen[0].partition, onewrite_core::position::partition_of("k", 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_binds_users_without_any_rights_of_ours() {
    let place = place(4).await;
    let store = place.store().await;
    let url = login(&place.url, None).await;
    let (admin, client) = (connect(&place.url).await, connect(&url).await);
    execute(&admin, "CREATE TABLE orders (id text); GRANT ALL ON orders TO PUBLIC").await;
    apply(&store, vec![Op::Guard { table: "orders".into() }]).await;
    assert_eq!(transact(&client, "INSERT INTO orders VALUES ('x')").await, "OW022");
    assert_eq!(transact(&client, EMIT).await, DENIED);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_receives_may_keep_marks_and_emit() {
    let Town { place, store, url, client } = town("onewrite_receive").await;
    let (admin, far) = (connect(&place.url).await, crate::rig::place(4).await);
    execute(&admin, "CREATE TABLE effect (n bigserial PRIMARY KEY, key text, id text); GRANT ALL ON effect, effect_n_seq TO PUBLIC").await;
    let source = far.store().await;
    emit_all(&source, events("a", 6, 3)).await;
    let receiving = place.at(&url);
    let consumer = Consumer::with(receiving).await;
    let (sink, receiver) = consumer.receive_well();
    let relay = Running::relay(&source, sink, relaying(SINK, sound()), "one");
    settled(&source, SINK).await;
    relay.stop().await;
    receiver.stop().await;
    assert_eq!(consumer.effects().await.len(), 6);
    assert!(number(&client, "SELECT onewrite.receive('c', 's', 'i')::int::bigint").await == 1);
    execute(&client, EMIT).await;
    assert_eq!(store.head().await.unwrap(), 1);
    assert_denied(&client, OWNERS).await;
    assert_denied(
        &client,
        &[
            "UPDATE onewrite.cursor SET sequence = 0",
            "TRUNCATE onewrite.log_0",
            "UPDATE onewrite.source SET name = 'x'",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_runs_with_its_role_alone() {
    let Town { place, store, url, client } = town("onewrite_relay").await;
    let relaying_store = open(&url).await;
    emit_all(&store, events("a", 50, 9)).await;
    let counting = Shared::<NullSink>::default();
    let relay = Running::relay(&relaying_store, counting.clone(), relaying(SINK, sound()), "one");
    until("the deliveries", async || counting.0.deliveries() == 50).await;
    let zero = std::time::Duration::ZERO;
    let retention =
        Retention { log: zero, history: zero, every: std::time::Duration::from_millis(5) };
    let sweeper = Running::start(|shutdown| {
        Sweeper::new(Arc::new(relaying_store.clone()), retention).run(shutdown)
    });
    let admin = connect(&place.url).await;
    // The segment in use changes, and the first one is emptied.
    until("the emptying", async || {
        emit_all(&store, events("b", 1, 1)).await;
        number(&admin, "SELECT count(*) FROM onewrite.log WHERE id LIKE 'a%'").await == 0
    })
    .await;
    relay.stop().await;
    sweeper.stop().await;
    assert_denied(&client, OWNERS).await;
    assert_denied(&client, &[INSERT, "INSERT INTO onewrite.inbox (consumer, source, incarnation, partition) VALUES ('c', 's', 'i', 1)"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_works_on_sinks_parked_keys_and_gaps() {
    let Town { store, url, .. } = town("onewrite_operator").await;
    emit_all(&store, events("a", 3, 1)).await;
    let operating = open(&url).await;
    apply(&operating, vec![Op::Subscribe { sink: SINK.into(), from: From::Beginning }]).await;
    apply(&operating, vec![Op::Suspend { sink: SINK.into(), reason: Some("mending".into()) }])
        .await;
    apply(&operating, vec![Op::Suspend { sink: SINK.into(), reason: None }]).await;
    let gaps = Op::AcceptGaps { consumer: "c".into(), source: "s".into() };
    apply(&operating, vec![gaps]).await;
    assert_eq!(operating.sinks().await.unwrap().len(), 1);
    assert!(operating.parked_keys(None).await.unwrap().is_empty());
    assert!(operating.gaps().await.unwrap().is_empty());
    let found = operating.find(onewrite_core::store::Find::All).await.unwrap();
    assert_eq!(found.len(), 3);
    apply(&operating, vec![Op::Emit(Event::new("Mended", "Thing", "k").into())]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_who_owns_a_table_guards_and_forwards_it() {
    let Town { place, url, client, .. } = town("onewrite_operator").await;
    execute(&connect(&place.url).await, "GRANT CREATE ON SCHEMA public TO PUBLIC").await;
    execute(&client, "CREATE TABLE orders (id text)").await;
    let operating = open(&url).await;
    apply(&operating, vec![Op::Guard { table: "orders".into() }]).await;
    assert_eq!(transact(&client, "INSERT INTO orders VALUES ('x')").await, "OW022");
    apply(&operating, vec![Op::Unguard { table: "orders".into() }]).await;
    assert_eq!(transact(&client, "INSERT INTO orders VALUES ('x')").await, "");
    execute(
        &client,
        "CREATE TABLE events (id uuid, aggregatetype text, aggregateid text, type text, payload jsonb);
         SELECT onewrite.forward_table('events')",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_own_the_schema_begins_no_other_life() {
    let Town { place, store, url, client } = town("onewrite_operator").await;
    let before = store.source();
    let forking = Options { copied: Copied::Fork(None), ..Options::from_url(&url).unwrap() };
    let refused = PostgresStore::open(forking).await.err().unwrap();
    assert!(refused.to_string().contains("permission denied for function begin_life"), "{refused}");
    let forking = Options { copied: Copied::Fork(Some(0)), ..Options::from_url(&url).unwrap() };
    let refused = PostgresStore::open(forking).await.err().unwrap();
    assert!(refused.to_string().contains("permission denied for table incarnation"), "{refused}");
    let adopting = Options { copied: Copied::Adopt, ..Options::from_url(&url).unwrap() };
    let refused = PostgresStore::open(adopting).await.err().unwrap();
    assert!(refused.to_string().contains("permission denied for table source"), "{refused}");
    assert_denied(&client, OWNERS).await;
    assert_eq!(place.store().await.source().incarnations, before.incarnations);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_rights_are_named() {
    let place = place(4).await;
    let store = place.store().await;
    let url = login(&place.url, None).await;
    let refused = PostgresStore::open(Options::from_url(&url).unwrap()).await.err().unwrap();
    assert_eq!(refused.code(), Code::Database);
    assert!(refused.to_string().contains("permission denied for schema onewrite"), "{refused}");
    assert!(refused.context().contains("GRANT onewrite_relay"), "{refused}");
    let emitting = open(&login(&place.url, Some("onewrite_emit, onewrite_receive")).await).await;
    let item = Item { fence: None, ops: vec![Op::Suspend { sink: "x".into(), reason: None }] };
    match outcome(&emitting, item).await.unwrap() {
        Outcome::Failed(error) => {
            assert!(error.to_string().contains("permission denied for"), "{error}")
        }
        other => panic!("{other:?}"),
    }
    drop(store);
    // Nor may a stranger create the schema in a database that is not theirs.
    let empty = crate::rig::place(4).await;
    let stranger = login(&empty.url, None).await;
    let refused = PostgresStore::open(Options::from_url(&stranger).unwrap()).await.err().unwrap();
    assert_eq!(refused.code(), Code::Database);
    assert!(refused.to_string().contains("permission denied for database"), "{refused}");
}

/// Creates the schema as the owner of a database who may not create roles, and uses it.
async fn create_without_roles(admin_url: &str) {
    let url = login(admin_url, None).await;
    let (user, admin) = (url.split(['/', ':']).nth(3).unwrap(), connect(admin_url).await);
    let database = url.rsplit_once('/').unwrap().1;
    execute(&admin, &format!("ALTER DATABASE {database} OWNER TO {user}")).await;
    let store =
        PostgresStore::open(Options { partitions: 4, ..Options::from_url(&url).unwrap() }).await;
    let store = store
        .unwrap_or_else(|error| panic!("who owns the database cannot create the schema: {error}"));
    emit_all(&store, events("a", 3, 1)).await;
    let mut follower = Follower::new(&store);
    follower.drain(&store).await;
    assert_eq!(follower.seen.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_create_roles_goes_without() {
    let server = server::Postgres::start().await.unwrap();
    server.create_database("shop").await.unwrap();
    create_without_roles(&server.url("shop")).await;
    let warnings = open(&server.url("shop")).await.warnings().await.unwrap();
    assert!(warnings.iter().any(|said| said.contains("onewrite_operator")), "{warnings:?}");
    let roles = server
        .psql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'onewrite%'")
        .await;
    assert_eq!(roles.unwrap().trim(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_create_roles_uses_those_of_the_cluster() {
    let first = place(4).await;
    drop(first.store().await);
    create_without_roles(&place(4).await.url).await;
}

/// A database whose sagas a member of `onewrite_relay` runs.
struct Relaying;

impl JournalFixture for Relaying {
    fn journals(&self) -> BoxFuture<'_, Box<dyn JournalPlace>> {
        Box::pin(async {
            let place = place(4).await;
            place.store().await;
            let url = login(&place.url, Some("onewrite_relay")).await;
            Box::new(place.at(&url)) as Box<dyn JournalPlace>
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_relay_may_run_sagas_and_delete_them() {
    conformance::saga::start_once(&Relaying).await;
    conformance::saga::next_version(&Relaying).await;
    conformance::saga::awaits(&Relaying).await;
    conformance::saga::taken_once(&Relaying).await;
    conformance::child::trimmed(&Relaying).await;
}

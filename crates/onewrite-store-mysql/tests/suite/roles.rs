//! Roles: what each may do, and what it may not.

use std::sync::Arc;

use mysql_async::{Conn, prelude::Queryable as _};
use onewrite_broker_local::NullSink;
use onewrite_core::{
    BoxFuture, Code, Delivery, Event, Incarnation, Record,
    inbox::{Attempt, Inbox as _},
    lease::Fence,
    parking::Request,
    record::Order,
    store::{Batch, Claim, Durability, Find, From, Item, Op, Outcome, Store},
};
use onewrite_engine::{Relay, RelayOptions, Retention, Shutdown, Sweeper};
use onewrite_store_mysql::{
    Context, Copied, InboxOptions, MysqlInbox, MysqlStore, Options, emit, emit_all, mysql_async,
};
use onewrite_testkit::{
    conformance::{self, JournalFixture, JournalPlace},
    server,
};

use crate::{
    conformance::Place,
    rig::{connect, database, event, execute, log, number, open, until},
};

const INSERT: &str = "INSERT INTO onewrite_outbox (aggregatetype, aggregateid, type, payload) VALUES ('Thing', 'k', 'Happened', '{}')";

/// What nobody but the owner of the tables may do, with data of others.
const OWNERS: &[&str] = &[
    "UPDATE onewrite_log SET payload = NULL",
    "INSERT INTO onewrite_incarnation VALUES (7, 'x', 1, 'forked')",
    "UPDATE onewrite_source SET name = 'another'",
    "UPDATE onewrite_source SET registered = 'here'",
    "DELETE FROM onewrite_lock",
    "DROP TABLE onewrite_log",
    "CREATE TABLE onewrite_mine (n INT)",
    "DROP PROCEDURE onewrite_claim",
];

/// The URL of the database for a new user with `role`, if with any.
async fn login(url: &str, role: Option<&str>) -> String {
    let mut admin = connect(url).await;
    let user = server::unique("u");
    execute(&mut admin, &format!("CREATE USER {user} IDENTIFIED BY 'secret'")).await;
    if let Some(role) = role {
        execute(&mut admin, &format!("GRANT {role} TO {user}")).await;
        execute(&mut admin, &format!("SET DEFAULT ROLE {role} FOR {user}")).await;
    }
    let (_, place) = url.split_once('@').unwrap();
    format!("mysql://{user}:secret@{place}")
}

struct Town {
    store: MysqlStore,
    url: String,
    conn: Conn,
}

async fn town(role: &str) -> Town {
    let admin = database().await;
    let store = open(&admin).await;
    let url = login(&admin, Some(role)).await;
    let conn = connect(&url).await;
    Town { store, url, conn }
}

/// Opens a store whose tables are there.
async fn enter(url: &str) -> MysqlStore {
    MysqlStore::open(Options { create: false, ..Options::from_url(url).unwrap() }).await.unwrap()
}

/// Fails unless each statement is refused for lack of rights.
async fn assert_denied(conn: &mut Conn, statements: &[&str]) {
    for sql in statements {
        match conn.query_drop(*sql).await {
            Err(mysql_async::Error::Server(said)) => {
                assert!(matches!(said.code, 1142 | 1143 | 1370 | 1044), "{sql}: {said}");
            }
            done => panic!("{sql}: {done:?}"),
        }
    }
}

/// Applies one item, which must not be refused.
async fn apply(store: &MysqlStore, fence: Option<Fence>, ops: Vec<Op>) {
    let batch = Batch { durability: Durability::Durable, items: vec![Item { fence, ops }] };
    let outcome = store.commit(batch).await.unwrap().pop();
    assert!(matches!(outcome, Some(Outcome::Applied(_))), "{outcome:?}");
}

async fn emitted(store: &MysqlStore, keys: &[&str]) {
    for key in keys {
        let own = event(key, format!("id-{key}"));
        store.write(|tx| Box::pin(async move { emit(tx, &own).await.map(drop) })).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_emit_may_do_nothing_else() {
    let Town { store, url, mut conn } = town("onewrite_emit").await;
    execute(&mut conn, INSERT).await;
    execute(&mut conn, "START TRANSACTION").await;
    emit_all(&mut conn, &[event("b", "b"), event("a", "a")]).await.unwrap();
    execute(&mut conn, "COMMIT").await;
    emitted(&enter(&url).await, &["c"]).await;
    assert_eq!(log(&store).await.len(), 4);
    assert_denied(&mut conn, OWNERS).await;
    assert_denied(
        &mut conn,
        &[
            "SELECT * FROM onewrite_log",
            "SELECT * FROM onewrite_outbox",
            "UPDATE onewrite_outbox SET id = 'x'",
            "DELETE FROM onewrite_outbox",
            "INSERT INTO onewrite_log SELECT * FROM onewrite_log",
            "DELETE FROM onewrite_log",
            "SELECT * FROM onewrite_cursor",
            "UPDATE onewrite_counter SET sequence = 0",
            "UPDATE onewrite_lease SET owner = 'me'",
            "CALL onewrite_claim('relay/x', 1, 'me', 1, TRUE)",
            "CALL onewrite_receive('c', 's', 'i', NULL, NULL, NULL, NULL, @is_new)",
            "SELECT 1 FROM onewrite_lock FOR UPDATE",
        ],
    )
    .await;
}

/// What the trigger checks is checked for everybody.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_emit_cannot_get_around_the_checks() {
    let Town { store, mut conn, .. } = town("onewrite_emit").await;
    let large = event("k", "large").bytes("text/plain", vec![b'x'; 1_100_000]);
    assert_eq!(emit(&mut conn, &large).await.unwrap_err().code(), Code::EventTooLarge);
    let early = "INSERT INTO onewrite_outbox (entered, aggregatetype, aggregateid, type, id) VALUES (1, 'Thing', 'k', 'T', 'late')";
    execute(&mut conn, INSERT).await;
    execute(&mut conn, early).await;
    assert_eq!(log(&store).await.last().unwrap(), "late", "its place is not its own choice");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_receives_may_keep_marks_and_emit() {
    let Town { store, url, mut conn } = town("onewrite_receive").await;
    let receiving = enter(&url).await;
    let mut options = InboxOptions::new("c");
    options.policy.attempts_max = 1;
    let inbox = MysqlInbox::new(&receiving, options, |cx: &mut Context<'_>| {
        Box::pin(async move {
            if cx.record().sequence == 2 && !cx.is_redriven() {
                return Err("not today".into());
            }
            cx.emit(Event::new("Done", "Thing", "k"))?;
            Ok(())
        })
    })
    .unwrap();
    let delivery = |sequence: u64, order| {
        let id = format!("e{sequence}");
        let incarnation = Incarnation(7);
        let event = event("k", id);
        let record = Record { source: "s".into(), incarnation, partition: 0, sequence, event };
        Delivery { record, order }
    };
    let deliveries = vec![
        delivery(1, Order::Chained { previous: 0 }),
        delivery(2, Order::Chained { previous: 1 }),
        delivery(9, Order::ById),
    ];
    for delivery in deliveries {
        let one = vec![delivery];
        let attempts = Attempt::of(&one);
        inbox.attempt(attempts.clone(), true).await.unwrap();
        assert!(inbox.receive(one, attempts).await.unwrap()[0].is_settled());
    }
    assert_eq!(inbox.marks("s", Incarnation(7)).await.unwrap().len(), 1);
    let key = receiving.parked_keys(None).await.unwrap().pop().unwrap();
    let asked = Op::Request {
        scope: key.scope.clone(),
        source: key.source.clone(),
        key: key.key.clone(),
        request: Request::Retry,
        reason: None,
    };
    apply(&receiving, None, vec![asked]).await;
    let requested = inbox.requested().await.unwrap().pop().unwrap();
    assert_eq!(inbox.redrive(requested.clone()).await.unwrap(), Ok(1));
    assert_eq!(inbox.redrive(requested).await.unwrap(), Ok(0), "nothing is parked any more");
    inbox.forget().await.unwrap();
    assert_eq!(log(&store).await.len(), 3);
    lease(&receiving, "lanes/x").await;
    let call = "CALL onewrite_receive('c', 's', 'i', NULL, NULL, NULL, NULL, @is_new)";
    execute(&mut conn, call).await;
    assert_eq!(number(&mut conn, "SELECT @is_new").await, 1);
    execute(&mut conn, "CALL onewrite_forget('c', 60)").await;
    assert_denied(&mut conn, OWNERS).await;
    assert_denied(
        &mut conn,
        &[
            "SELECT * FROM onewrite_log",
            "DELETE FROM onewrite_log",
            "DELETE FROM onewrite_inbox",
            "SELECT * FROM onewrite_outbox",
            "DELETE FROM onewrite_outbox",
            "UPDATE onewrite_cursor SET sequence = 0",
            "UPDATE onewrite_counter SET sequence = 0",
        ],
    )
    .await;
}

/// Takes leases of a scope and gives them back.
async fn lease(store: &MysqlStore, scope: &'static str) {
    let owner = "me";
    let claim = Claim {
        scope: scope.into(),
        leases: 2,
        owner: owner.into(),
        ttl: std::time::Duration::from_secs(9),
        take: true,
    };
    let held = store.claim(claim).await.unwrap().held;
    assert_eq!(held.len(), 2);
    for fence in held {
        apply(store, Some(fence.clone()), vec![Op::Release(fence)]).await;
    }
    apply(store, None, vec![Op::Leave { scope: scope.into(), owner: owner.into() }]).await;
    store.leases().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_runs_with_its_role_alone() {
    let Town { store, url, mut conn } = town("onewrite_relay").await;
    let relaying = enter(&url).await;
    emitted(&store, &["a", "b", "c"]).await;
    let shutdown = Shutdown::default();
    let (log, sink) = (Arc::new(relaying.clone()), Arc::new(NullSink::default()));
    let relay = Relay::new(log, sink, RelayOptions::new("s"), "one");
    let relay = tokio::spawn(relay.run(shutdown.clone()));
    let zero = std::time::Duration::ZERO;
    let every = std::time::Duration::from_millis(5);
    let retention = Retention { log: zero, history: zero, every };
    let sweeper = Sweeper::new(Arc::new(relaying.clone()), retention);
    let sweeper = tokio::spawn(sweeper.run(shutdown.clone()));
    until("everything is delivered and trimmed", async || {
        relaying.sinks().await.is_ok_and(|sinks| sinks.len() == 1)
            && number(&mut conn, "SELECT COUNT(*) FROM onewrite_trimmed").await > 0
            && number(&mut conn, "SELECT COUNT(*) FROM onewrite_log").await == 0
    })
    .await;
    shutdown.begin();
    relay.await.unwrap();
    sweeper.await.unwrap();
    emitted(&store, &["d"]).await;
    let found = relaying.find(Find::All).await.unwrap();
    assert!(!found.is_empty());
    let parked = |sequence| Op::Park {
        sink: "s".into(),
        partition: found.last().unwrap().partition,
        sequence,
        reason: "why".into(),
    };
    let head = relaying.head().await.unwrap();
    apply(&relaying, None, vec![parked(head)]).await;
    lease(&relaying, "relay/other").await;
    assert!(relaying.gaps().await.unwrap().is_empty());
    assert_denied(&mut conn, OWNERS).await;
    let inbox = "INSERT INTO onewrite_inbox (consumer, source, incarnation, `partition`) VALUES ('c', 's', 'i', 1)";
    let receive = "CALL onewrite_receive('c', 's', 'i', NULL, NULL, NULL, NULL, @is_new)";
    let ids = "SELECT * FROM onewrite_inbox_id";
    let keys = "CALL onewrite_lock_keys('[\"a\", \"b\"]')";
    let mark = "UPDATE onewrite_inbox SET sequence = 9";
    assert_denied(&mut conn, &[INSERT, inbox, receive, ids, keys, mark]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_works_on_sinks_parked_keys_and_gaps() {
    let Town { store, url, mut conn } = town("onewrite_operator").await;
    emitted(&store, &["a", "b", "c"]).await;
    let operating = enter(&url).await;
    let suspend = |reason: Option<&str>| Op::Suspend {
        sink: "s".into(),
        reason: reason.map(|reason| reason.to_owned().into()),
    };
    apply(&operating, None, vec![Op::Subscribe { sink: "s".into(), from: From::Beginning }]).await;
    apply(&operating, None, vec![suspend(Some("mending"))]).await;
    apply(&operating, None, vec![suspend(None)]).await;
    let gaps = Op::AcceptGaps { consumer: "c".into(), source: "s".into() };
    apply(&operating, None, vec![gaps]).await;
    assert_eq!(operating.sinks().await.unwrap().len(), 1);
    assert!(operating.parked_keys(None).await.unwrap().is_empty());
    assert_eq!(operating.find(Find::All).await.unwrap().len(), 3);
    apply(&operating, None, vec![Op::Emit(Event::new("Mended", "Thing", "k").into())]).await;
    operating.warnings().await.unwrap();
    assert_denied(&mut conn, OWNERS).await;
    let before = store.source();
    for copied in [Copied::Fork(None), Copied::Adopt] {
        let options = Options { copied, ..Options::from_url(&url).unwrap() };
        let refused = MysqlStore::open(options).await.err().unwrap();
        assert!(refused.to_string().contains("command denied"), "{refused}");
    }
    assert_eq!(store.source().incarnations, before.incarnations);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_rights_are_named() {
    let admin = database().await;
    let store = open(&admin).await;
    let emitting = enter(&login(&admin, Some("onewrite_emit")).await).await;
    let items =
        vec![Item { fence: None, ops: vec![Op::Suspend { sink: "x".into(), reason: None }] }];
    let batch = Batch { durability: Durability::Durable, items };
    let outcome = emitting.commit(batch).await.unwrap().pop();
    let Some(Outcome::Failed(error)) = outcome else { panic!("{outcome:?}") };
    assert!(error.context().contains("GRANT onewrite_relay"), "{error}");
    assert!(error.to_string().contains("command denied"), "{error}");
    drop(store);
    // Nor may a stranger look in, or make tables in a database that is not theirs.
    let stranger = Options::from_url(&login(&admin, None).await).unwrap();
    let refused = MysqlStore::open(stranger).await.err().unwrap();
    assert_eq!(refused.code(), Code::StoreUnreachable, "{refused}");
}

/// Who owns a database and may not grant makes the tables and goes without roles; who may grants by the book.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_make_roles_goes_without_until_somebody_grants_by_the_book() {
    let admin_url = database().await;
    let name = admin_url.rsplit_once('/').unwrap().1;
    let owner_url = login(&admin_url, None).await;
    let owner = owner_url.split(['/', ':']).nth(3).unwrap();
    let mut admin = connect(&admin_url).await;
    execute(&mut admin, &format!("GRANT ALL ON `{name}`.* TO {owner}")).await;
    let store = open(&owner_url).await;
    emitted(&store, &["a"]).await;
    let page = include_str!("../../../../book/src/mysql.md");
    let block = |begins: &str| {
        let mut blocks = page.split("```sql\n").filter_map(|rest| rest.split_once("```"));
        blocks.find(|(block, _)| block.starts_with(begins)).unwrap().0
    };
    let (user, block) = (block("CREATE USER"), block("CREATE ROLE"));
    // The page says what the schema's own migration does.
    for statement in include_str!("../../migrations/0001_roles.sql").split("\n--.\n") {
        let lines: Vec<&str> = statement.lines().filter(|line| !line.starts_with("--")).collect();
        assert!(block.contains(&format!("{};", lines.join("\n").trim())), "{statement}");
    }
    // Other databases of this server have made the roles: they have no rights here.
    execute(&mut admin, "CREATE ROLE IF NOT EXISTS onewrite_emit").await;
    let emitting = login(&admin_url, Some("onewrite_emit")).await;
    let refused = Conn::from_url(&emitting).await;
    assert!(refused.is_err(), "it may enter the database without any right there");
    server::shared_mariadb().await.unwrap().sql(name, block).await.unwrap();
    emitted(&enter(&emitting).await, &["b"]).await;
    assert_eq!(log(&store).await, ["id-a", "id-b"]);
    assert_denied(&mut connect(&emitting).await, OWNERS).await;
    let ship = server::unique("ship");
    execute(&mut admin, &user.replace(" ship", &format!(" {ship}")).replace('\n', " ")).await;
    let place = admin_url.split_once('@').unwrap().1;
    let relaying = enter(&format!("mysql://{ship}:a%20secret@{place}")).await;
    assert_eq!(relaying.head().await.unwrap(), 2);
}

/// A database whose sagas a member of `onewrite_relay` runs.
struct Relaying;

impl JournalFixture for Relaying {
    fn journals(&self) -> BoxFuture<'_, Box<dyn JournalPlace>> {
        Box::pin(async {
            let admin = database().await;
            open(&admin).await;
            let url = login(&admin, Some("onewrite_relay")).await;
            Box::new(Place::at(&url)) as Box<dyn JournalPlace>
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

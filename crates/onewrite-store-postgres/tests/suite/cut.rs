//! I7: the connection is cut while something is committed. What became of it is told as far as it is known,
//! and never wrongly; repeating it has one effect.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use onewrite_core::{
    Code, Event, Result,
    error::Certainty,
    lease::Fence,
    store::{Claim, From, Item, Op, Outcome, Store as _},
};
use onewrite_store_postgres::{
    Options, PostgresStore, emit,
    tokio_postgres::{self, Client},
};
use onewrite_testkit::{
    proxy::{Fault, Proxy},
    server,
};

use crate::{
    conformance::{Place, connect},
    rig::{apply, event, execute, extended, number, outcome, place, state, until},
};

/// A database that is reached through a proxy, and on a way that stays open.
struct Line {
    place: Place,
    proxy: Arc<Proxy>,
    url: String,
    /// Around the proxy.
    direct: Client,
}

impl Line {
    async fn new() -> Self {
        let place = place(4).await;
        let store = place.store().await;
        apply(&store, vec![Op::Subscribe { sink: "s".into(), from: From::Beginning }]).await;
        let direct = place.connect().await;
        execute(&direct, "CREATE TABLE effect (id text PRIMARY KEY, n integer NOT NULL DEFAULT 1)")
            .await;
        let port = server::shared_postgres().await.unwrap().port();
        let proxy = Proxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.unwrap();
        let proxy = Arc::new(proxy);
        let url = place.url.replace(&format!(":{port}/"), &format!(":{}/", proxy.addr().port()));
        let url = format!("{url}?application_name=cut");
        Self { place, proxy, url, direct }
    }

    /// Opens the store through the proxy.
    async fn open(&self) -> PostgresStore {
        self.proxy.set(Fault::Pass);
        let options = Options { create: false, ..Options::from_url(&self.url).unwrap() };
        PostgresStore::open(options).await.unwrap()
    }

    /// Cuts everything, and waits until both sides know.
    async fn hang_up(&self, store: &PostgresStore) {
        self.proxy.set(Fault::Refuse);
        let there = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'cut'";
        until("the end of the connections", async || {
            number(&self.direct, there).await == 0
                && store.now().await.is_err()
                && store.work().await.is_err()
        })
        .await;
    }
}

/// Called just before a commit is asked for.
type Hook = Arc<dyn Fn() + Send + Sync>;

fn nothing() -> Hook {
    Arc::new(|| ())
}

/// What is done while the line is cut.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Act {
    /// A user's transaction.
    Write,
    /// An event through the write door.
    Commit,
    /// A cursor under its fence.
    MoveCursor,
    /// One transaction without the store, whose errors are all taken for failures: the broken variant.
    Naive,
}

impl Act {
    /// Does it as `number`, which is never used twice.
    async fn run(self, store: &PostgresStore, number: i64, before_commit: Hook) -> Result<()> {
        let id = format!("e{number}");
        match self {
            Self::Write => {
                let work = store.write(move |tx| {
                    Box::pin(async move {
                        let sql = "INSERT INTO effect (id) VALUES ($1) ON CONFLICT DO NOTHING";
                        let inserted = tx.execute(sql, &[&id]).await.map_err(database)?;
                        if inserted == 1 {
                            emit(tx, &event("k", id)).await?;
                        }
                        before_commit();
                        Ok(())
                    })
                });
                work.await
            }
            Self::Commit => {
                let item = Item { fence: None, ops: vec![Op::Emit(Box::new(event("k", id)))] };
                outcome(store, item)
                    .await
                    .map(|outcome| assert!(matches!(outcome, Outcome::Applied(1)), "{outcome:?}"))
            }
            Self::MoveCursor => {
                let sequence = number.cast_unsigned();
                let epoch = store.leases().await?[0].epoch;
                let fence = Some(Fence { scope: "relay/s".into(), partition: 0, epoch });
                let ops = vec![Op::MoveCursor {
                    sink: "s".into(),
                    partition: 0,
                    sequence,
                    chain: sequence,
                }];
                before_commit();
                outcome(store, Item { fence, ops }).await.map(|outcome| {
                    assert!(matches!(outcome, Outcome::Applied(1)), "{outcome:?}");
                })
            }
            Self::Naive => {
                let client = store.work().await?;
                client.batch_execute("BEGIN").await.map_err(database)?;
                client
                    .execute("INSERT INTO effect (id) VALUES ($1)", &[&id])
                    .await
                    .map_err(database)?;
                before_commit();
                client.batch_execute("COMMIT").await.map_err(database)
            }
        }
    }

    /// Whether it is there.
    async fn is_applied(self, direct: &Client, of: i64) -> bool {
        let sql = match self {
            Self::Write | Self::Naive => format!("SELECT count(*) FROM effect WHERE id = 'e{of}'"),
            Self::Commit => format!("SELECT count(*) FROM onewrite.log WHERE id = 'e{of}'"),
            Self::MoveCursor => {
                format!("SELECT count(*) FROM onewrite.cursor WHERE sequence = {of}")
            }
        };
        number(direct, &sql).await > 0
    }
}

fn database(error: tokio_postgres::Error) -> onewrite_core::Error {
    let code = if error.is_closed() { Code::StoreUnreachable } else { Code::Database };
    onewrite_core::Error::new(code, "a user's statement").with_source(error)
}

/// Whether what was said of an act agrees with what became of it.
fn is_honest(said: &Result<()>, is_applied: bool) -> bool {
    match said.as_ref().map_err(onewrite_core::Error::certainty) {
        Ok(()) | Err(Certainty::Applied) => is_applied,
        Err(Certainty::NotApplied) => !is_applied,
        Err(Certainty::Unknown) => true,
    }
}

async fn lease(store: &PostgresStore) {
    let ttl = Duration::from_secs(3600);
    let claim = Claim { scope: "relay/s".into(), leases: 1, owner: "me".into(), ttl, take: true };
    assert_eq!(store.claim(claim).await.unwrap().held.len(), 1);
}

/// How many places of a transaction are cut.
fn cuts() -> u64 {
    if extended() { 200 } else { 16 }
}

/// Cuts the line after each of some numbers of bytes, while `act` runs on a new connection.
async fn cut_everywhere(act: Act) {
    let line = Line::new().await;
    let around = line.place.store().await;
    lease(&around).await;
    let store = line.open().await;
    act.run(&store, 1_000, nothing()).await.unwrap();
    // What it takes on a new connection, whose bytes are counted from its start.
    line.hang_up(&store).await;
    line.proxy.set(Fault::Pass);
    let before = line.proxy.bytes();
    act.run(&store, 1_001, nothing()).await.unwrap();
    let after = line.proxy.bytes();
    let (up, down) = (after.0 - before.0, after.1 - before.1);
    let (from, to) = (up.min(down) / 3, up.max(down));
    let (mut unknown, mut refused) = (0, 0);
    for cut in 0..=cuts() {
        let (number, after_bytes) = (2_000 + cut.cast_signed(), from + (to - from) * cut / cuts());
        line.hang_up(&store).await;
        line.proxy.set(Fault::Cut { after_bytes });
        let said = act.run(&store, number, nothing()).await;
        line.hang_up(&store).await;
        let is_applied = act.is_applied(&line.direct, number).await;
        assert!(
            is_honest(&said, is_applied),
            "cut after {after_bytes}: {said:?}, applied: {is_applied}"
        );
        match said.map_err(|error| error.code()) {
            Ok(()) => {}
            Err(Code::CommitUnknown) => unknown += 1,
            Err(Code::StoreUnreachable) => refused += 1,
            Err(code) => panic!("cut after {after_bytes}: {code:?}"),
        }
        if act != Act::Commit {
            act.run(&around, number, nothing()).await.unwrap();
            assert!(act.is_applied(&line.direct, number).await);
        }
    }
    let double =
        "SELECT count(*) FROM (SELECT id FROM onewrite.log GROUP BY id HAVING count(*) > 1) twice";
    assert_eq!(number(&line.direct, double).await, 0, "a repeat took effect twice");
    assert!(unknown + refused > 5, "the cuts hit nothing: {unknown} unknown, {refused} refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_write_is_judged_rightly_wherever_it_is_cut() {
    cut_everywhere(Act::Write).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_judged_rightly_wherever_it_is_cut() {
    cut_everywhere(Act::Commit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_judged_rightly_wherever_it_is_cut() {
    cut_everywhere(Act::MoveCursor).await;
}

/// The request for the commit arrives and is carried out, and its reply is lost on the way.
async fn lose_the_reply(act: Act) -> (Result<()>, bool) {
    let line = Line::new().await;
    lease(&line.place.store().await).await;
    let store = line.open().await;
    act.run(&store, 1, nothing()).await.unwrap();
    let proxy = Arc::clone(&line.proxy);
    let slow: Hook = Arc::new(move || proxy.set(Fault::Delay(Duration::from_secs(1))));
    let acting = tokio::spawn({
        let store = store.clone();
        async move { act.run(&store, 2, slow).await }
    });
    // The reply is under way for longer than it takes to see this.
    let applied = async || act.is_applied(&line.direct, 2).await;
    until("the commit", applied).await;
    line.hang_up(&store).await;
    (acting.await.unwrap(), act.is_applied(&line.direct, 2).await)
}

// On one thread, so that what is sent together leaves together.
#[tokio::test]
async fn a_write_whose_reply_is_lost_is_unknown() {
    let (said, _) = lose_the_reply(Act::Write).await;
    assert_eq!(said.unwrap_err().code(), Code::CommitUnknown);
}

#[tokio::test]
async fn a_cursor_whose_reply_is_lost_is_unknown() {
    let (said, _) = lose_the_reply(Act::MoveCursor).await;
    assert_eq!(said.unwrap_err().code(), Code::CommitUnknown);
}

#[tokio::test]
async fn who_takes_a_lost_reply_for_a_failure_is_noticed() {
    let (said, is_applied) = lose_the_reply(Act::Naive).await;
    assert!(!is_honest(&said, is_applied), "nothing noticed: {said:?}, applied: {is_applied}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_a_connection_is_understood() {
    let line = Line::new().await;
    let store = line.open().await;
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'cut'";
    let direct = connect(&line.place.url).await;
    let work = store.write(|tx| {
        Box::pin(async move {
            emit(tx, &Event::new("Happened", "Thing", "k")).await?;
            assert!(number(&direct, kill).await > 0);
            Ok(())
        })
    });
    let said = work.await.unwrap_err();
    assert!(matches!(said.code(), Code::CommitUnknown | Code::StoreUnreachable), "{said}");
    // The pool recovers by itself.
    until("a new connection", async || {
        store
            .write(|tx| {
                Box::pin(async move { emit(tx, &Event::new("Happened", "Thing", "k")).await })
            })
            .await
            .is_ok()
    })
    .await;
    assert_eq!(state(&line.direct.batch_execute("SELECT 1").await), "");
    assert_eq!(number(&line.direct, "SELECT count(*) FROM onewrite.log").await, 1);
}

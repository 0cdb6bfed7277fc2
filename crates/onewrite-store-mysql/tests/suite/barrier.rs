//! S1, S3, S4, S5, S6: the barrier of a participant on MariaDB.

use std::time::Duration;

use mysql_async::{Conn, prelude::Queryable as _};
use onewrite_core::{
    BoxFuture, Code, Result,
    sabotage::{Defect, Sabotage},
    saga::{
        SagaId,
        barrier::{Barrier, Passage},
    },
};
use onewrite_store_mysql::{
    barrier::{create, forget, pass},
    failed, mysql_async,
};
use onewrite_testkit::{
    conformance::{self, BarrierCall, BarrierFixture, BarrierPlace},
    server::Mariadb,
};
use tokio::{
    sync::oneshot::{Receiver, Sender, channel},
    task::JoinHandle,
};

use crate::rig::{connect, database, execute, number, until};

const READ_COMMITTED: &str = "SET tx_isolation = 'READ-COMMITTED'";
const REPEATABLE_READ: &str = "SET tx_isolation = 'REPEATABLE-READ'";
const SERIALIZABLE: &str = "SET tx_isolation = 'SERIALIZABLE'";
/// What `REPEATABLE READ` is in newer servers.
const SNAPSHOT: &str = "SET tx_isolation = 'REPEATABLE-READ', innodb_snapshot_isolation = ON";

/// Participants whose sessions have one setting.
pub(crate) struct Participants(&'static str);

mod driver {
    use super::*;

    onewrite_testkit::barrier_suite!(Participants(REPEATABLE_READ));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_random_at_other_isolations() {
    for isolation in [READ_COMMITTED, SERIALIZABLE, SNAPSHOT] {
        conformance::barrier::at_random(&Participants(isolation)).await;
    }
}

/// The URL of a database with a ledger, on a server with the barrier.
pub(crate) async fn ledger() -> String {
    let url = database().await;
    make_ledger(&url).await;
    url
}

/// The same on a server of its own: the barrier's table is one for all databases, and what other tests lock there
/// would be in the way of those that say who waits for whom.
async fn alone() -> (Mariadb, String) {
    let server = Mariadb::start().await.unwrap();
    server.address().create_database("bank").await.unwrap();
    let url = server.address().url("bank");
    make_ledger(&url).await;
    (server, url)
}

async fn make_ledger(url: &str) {
    let mut conn = connect(url).await;
    let table = "CREATE TABLE ledger (n BIGINT AUTO_INCREMENT PRIMARY KEY, amount BIGINT)";
    execute(&mut conn, table).await;
    create(&mut conn).await.unwrap();
}

pub(crate) async fn amounts(url: &str) -> Vec<i64> {
    connect(url).await.query("SELECT amount FROM ledger ORDER BY n").await.unwrap()
}

/// Makes the rows of a step older.
pub(crate) async fn age(url: &str, saga: SagaId, step: &str, hours: u32) {
    let older = format!(
        "UPDATE dtm_barrier.barrier SET create_time = create_time - INTERVAL {hours} HOUR
         WHERE gid = '{saga}' AND branch_id = '{step}'"
    );
    let mut conn = connect(url).await;
    // Another test's locks may be in the way.
    while let Err(error) = conn.query_drop(&older).await {
        let error = failed("age", error);
        assert_eq!(error.code(), Code::StoreBusy, "{error}");
    }
}

impl BarrierFixture for Participants {
    fn participant(&self) -> BoxFuture<'_, Box<dyn BarrierPlace>> {
        let setting = self.0;
        Box::pin(async move { Box::new(Participant(ledger().await, setting)) as _ })
    }
}

struct Participant(String, &'static str);

impl BarrierPlace for Participant {
    fn create(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { create(&mut connect(&self.0).await).await })
    }

    fn call(&self, call: BarrierCall) -> BoxFuture<'_, Result<Passage>> {
        Box::pin(async move {
            let mut conn = begin(&self.0, self.1).await;
            let passage = pass(&mut conn, &call.barrier).await?;
            if passage.acts() {
                let moved =
                    conn.exec_drop("INSERT INTO ledger (amount) VALUES (?)", (call.amount,));
                moved.await.map_err(|error| failed("move", error))?;
            }
            let ended = conn.query_drop(if call.commits { "COMMIT" } else { "ROLLBACK" }).await;
            ended.map(|()| passage).map_err(|error| failed("end", error))
        })
    }

    fn ledger(&self) -> BoxFuture<'_, Vec<i64>> {
        Box::pin(amounts(&self.0))
    }

    fn forget(&self, kept: Duration) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { forget(&mut connect(&self.0).await, kept).await })
    }

    fn age<'a>(&'a self, saga: SagaId, step: &'a str, hours: u32) -> BoxFuture<'a, ()> {
        Box::pin(age(&self.0, saga, step, hours))
    }
}

/// A connection with an open transaction.
async fn begin(url: &str, setting: &str) -> Conn {
    let mut conn = connect(url).await;
    execute(&mut conn, setting).await;
    execute(&mut conn, "START TRANSACTION").await;
    conn
}

/// Each pair of rivals has a saga of its own.
fn saga() -> SagaId {
    SagaId(uuid::Uuid::now_v7().as_u128())
}

fn action(saga: SagaId) -> Barrier {
    Barrier::action(saga, "pay").unwrap()
}

fn compensation(saga: SagaId) -> Barrier {
    Barrier::compensation(saga, "pay").unwrap()
}

/// With the planted defect.
fn looking(barrier: Barrier) -> Barrier {
    barrier.sabotaged(Sabotage::default().with(Defect::CheckThenAct))
}

/// A call that has its snapshot, and passes the barrier when it is told to.
struct Rival {
    id: u32,
    go: Sender<()>,
    racing: JoinHandle<Result<Passage>>,
}

impl Rival {
    async fn begin(url: &str, setting: &str, barrier: Barrier) -> Self {
        let mut conn = begin(url, setting).await;
        let _: i64 = number(&mut conn, "SELECT COUNT(*) FROM ledger").await;
        let (id, (go, goes)) = (conn.id(), channel());
        Self { id, go, racing: tokio::spawn(Self::race(conn, barrier, goes)) }
    }

    async fn race(mut conn: Conn, barrier: Barrier, goes: Receiver<()>) -> Result<Passage> {
        goes.await.unwrap();
        let passage = pass(&mut conn, &barrier).await?;
        let committed = conn.query_drop("COMMIT").await;
        committed.map(|()| passage).map_err(|error| failed("commit", error))
    }

    /// Lets it go on, and waits until it inserts: it goes no further, while another has inserted the same.
    async fn inserts(self, watcher: &mut Conn) -> JoinHandle<Result<Passage>> {
        self.go.send(()).unwrap();
        let sql = format!(
            "SELECT COUNT(*) FROM information_schema.processlist
             WHERE id = {} AND info LIKE 'INSERT IGNORE INTO dtm_barrier.barrier%'",
            self.id
        );
        until("the second inserts", async || number(watcher, &sql).await > 0).await;
        self.racing
    }
}

/// What `second` comes to that has its snapshot before `first` does anything, passes the barrier while `first`
/// is under way, and goes on when `first` commits or is rolled back.
async fn race(
    url: &str,
    setting: &str,
    (first, second): (Barrier, Barrier),
    commits: bool,
) -> Result<Passage> {
    let rival = Rival::begin(url, setting, second).await;
    let (mut one, mut watcher) = (begin(url, setting).await, connect(url).await);
    let _ = pass(&mut one, &first).await.unwrap();
    let racing = rival.inserts(&mut watcher).await;
    execute(&mut one, if commits { "COMMIT" } else { "ROLLBACK" }).await;
    racing.await.unwrap()
}

/// S5: whoever comes second waits for the first one's end, and does what that end asks for, at once or when it
/// is tried again.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_second_waits_for_the_first() {
    let (_server, url) = alone().await;
    for setting in [READ_COMMITTED, REPEATABLE_READ, SNAPSHOT] {
        for (undoes, committed, undone) in [
            ([false, true], Passage::Act, Passage::Empty),
            ([true, false], Passage::Late, Passage::Act),
            ([false, false], Passage::Repeated, Passage::Act),
            ([true, true], Passage::Repeated, Passage::Empty),
        ] {
            for (commits, expected) in [(true, committed), (false, undone)] {
                let (case, saga) = (format!("{setting}, {undoes:?}, commits: {commits}"), saga());
                let [first, second] =
                    undoes.map(|undoes| if undoes { compensation(saga) } else { action(saga) });
                let mut found = race(&url, setting, (first, second.clone()), commits).await;
                if let Err(error) = &found {
                    assert_eq!(error.code(), Code::StoreBusy, "{case}: {error}");
                    assert_eq!(setting, SNAPSHOT, "{case}: {error}");
                    let call = BarrierCall { barrier: second, amount: 1, commits: true };
                    found = Participant(url.clone(), setting).call(call).await;
                }
                assert_eq!(found.unwrap(), expected, "{case}");
            }
        }
    }
}

/// S5: two that have waited for the same call may then wait for each other, and the server ends one of them,
/// which is tried again.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_wait_for_each_other_one_is_ended_and_tried_again() {
    let (_server, url) = alone().await;
    for setting in [READ_COMMITTED, REPEATABLE_READ] {
        let (saga, mut watcher) = (saga(), connect(&url).await);
        let mut first = begin(&url, setting).await;
        assert_eq!(pass(&mut first, &action(saga)).await.unwrap(), Passage::Act);
        let mut racing = Vec::new();
        for _ in 0..2 {
            let rival = Rival::begin(&url, setting, compensation(saga)).await;
            racing.push(rival.inserts(&mut watcher).await);
        }
        execute(&mut first, "ROLLBACK").await;
        let mut passages = Vec::new();
        for racing in racing {
            let mut found = racing.await.unwrap();
            if let Err(error) = &found {
                assert_eq!(error.code(), Code::StoreBusy, "{setting}: {error}");
                let call = BarrierCall { barrier: compensation(saga), amount: 1, commits: true };
                found = Participant(url.clone(), setting).call(call).await;
            }
            passages.push(found.unwrap());
        }
        passages.sort_by_key(|passage| *passage == Passage::Empty);
        assert_eq!(passages, [Passage::Repeated, Passage::Empty], "{setting}");
    }
}

/// The planted defect: what was not there when it looked is there when it acts.
#[tokio::test(flavor = "multi_thread")]
async fn looking_first_carries_out_twice_and_too_late() {
    let (_server, url) = alone().await;
    for setting in [READ_COMMITTED, REPEATABLE_READ] {
        for undoes in [false, true] {
            let saga = saga();
            let first = if undoes { compensation(saga) } else { action(saga) };
            let rivals = (first, looking(action(saga)));
            let found = race(&url, setting, rivals, true).await.unwrap();
            assert_eq!(found, Passage::Act, "nothing noticed");
        }
    }
}

/// S6: all that is old goes, a part at a time, whatever the time zone of a session is.
#[tokio::test(flavor = "multi_thread")]
async fn old_rows_are_forgotten_in_every_time_zone() {
    let ((_server, url), gid) = (alone().await, saga());
    let (mut east, mut west) = (connect(&url).await, connect(&url).await);
    execute(&mut east, "SET time_zone = '+13:00'").await;
    execute(&mut west, "SET time_zone = '-12:00'").await;
    let rows = format!(
        "INSERT INTO dtm_barrier.barrier (gid, branch_id, create_time)
         SELECT '{gid}', seq, UTC_TIMESTAMP() - INTERVAL 30 + seq * 60 SECOND FROM seq_1_to_5000"
    );
    execute(&mut west, &rows).await;
    execute(&mut west, &format!("INSERT INTO dtm_barrier.barrier (gid) VALUES ('{gid}')")).await;
    forget(&mut east, Duration::from_secs(86_400)).await.unwrap();
    let left = format!("SELECT COUNT(*) FROM dtm_barrier.barrier WHERE gid = '{gid}'");
    assert_eq!(number(&mut west, &left).await, 1440);
}

/// The statements of the book's page are those of a compensation.
#[tokio::test(flavor = "multi_thread")]
async fn the_pages_statements_are_a_compensation() {
    let page = include_str!("../../../../book/src/sagas.md");
    let mut blocks = page.split("```sql\n").filter_map(|rest| rest.split_once("```"));
    let (block, _) = blocks.find(|(block, _)| block.contains("INSERT IGNORE")).unwrap();
    let (url, saga) = (ledger().await, "01964b2e-7d1c-7a00-8000-0123456789ab".parse().unwrap());
    execute(&mut connect(&url).await, block).await;
    let participant = Participant(url, READ_COMMITTED);
    for (barrier, expected) in [
        (Barrier::action(saga, "reserve_stock"), Passage::Late),
        (Barrier::compensation(saga, "reserve_stock"), Passage::Repeated),
    ] {
        let call = BarrierCall { barrier: barrier.unwrap(), amount: 1, commits: true };
        assert_eq!(participant.call(call).await.unwrap(), expected);
    }
}

/// What asks for found rows counts a duplicate of an insert as nothing all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_for_found_rows_is_told_the_same() {
    let (url, saga) = (ledger().await, saga());
    let opts = mysql_async::OptsBuilder::from_opts(mysql_async::Opts::from_url(&url).unwrap());
    let mut conn = Conn::new(opts.client_found_rows(true)).await.unwrap();
    for expected in [Passage::Act, Passage::Repeated] {
        execute(&mut conn, "START TRANSACTION").await;
        assert_eq!(pass(&mut conn, &action(saga)).await.unwrap(), expected);
        execute(&mut conn, "COMMIT").await;
    }
}

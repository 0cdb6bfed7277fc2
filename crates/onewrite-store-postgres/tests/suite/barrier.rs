//! S1, S3, S4, S5, S6: the barrier of a participant on PostgreSQL.

use std::time::Duration;

use onewrite_core::{
    BoxFuture, Code, Result,
    sabotage::{Defect, Sabotage},
    saga::{
        SagaId,
        barrier::{Barrier, Passage},
    },
};
use onewrite_store_postgres::{
    barrier::{create, forget, pass},
    failed,
    tokio_postgres::{Client, IsolationLevel},
};
use onewrite_testkit::{
    conformance::{self, BarrierCall, BarrierFixture, BarrierPlace},
    server,
};

use tokio::sync::oneshot::channel;

use crate::{
    conformance::connect,
    rig::{execute, number, until},
};

/// Participants whose transactions run at one isolation level.
pub(crate) struct Participants(pub(crate) IsolationLevel);

mod driver {
    use super::*;

    onewrite_testkit::barrier_suite!(Participants(IsolationLevel::ReadCommitted));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_random_with_snapshots() {
    for isolation in [IsolationLevel::RepeatableRead, IsolationLevel::Serializable] {
        conformance::barrier::at_random(&Participants(isolation)).await;
    }
}

/// The URL of a database with a ledger and the barrier.
pub(crate) async fn ledger() -> String {
    let server = server::shared_postgres().await.unwrap();
    let name = server::unique("barrier");
    server.create_database(&name).await.unwrap();
    let url = server.url(&name);
    let client = connect(&url).await;
    execute(&client, "CREATE TABLE ledger (n bigserial PRIMARY KEY, amount bigint)").await;
    create(&client).await.unwrap();
    url
}

pub(crate) async fn amounts(url: &str) -> Vec<i64> {
    let rows = connect(url).await.query("SELECT amount FROM ledger ORDER BY n", &[]).await;
    rows.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Makes the rows of a step older.
pub(crate) async fn age(url: &str, saga: SagaId, step: &str, hours: u32) {
    let older = format!(
        "UPDATE dtm_barrier.barrier SET create_time = create_time - interval '{hours} hours'
         WHERE gid = '{saga}' AND branch_id = '{step}'"
    );
    execute(&connect(url).await, &older).await;
}

impl BarrierFixture for Participants {
    fn participant(&self) -> BoxFuture<'_, Box<dyn BarrierPlace>> {
        let isolation = self.0;
        Box::pin(async move { Box::new(Participant(ledger().await, isolation)) as _ })
    }
}

struct Participant(String, IsolationLevel);

impl BarrierPlace for Participant {
    fn create(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { create(&connect(&self.0).await).await })
    }

    fn call(&self, call: BarrierCall) -> BoxFuture<'_, Result<Passage>> {
        Box::pin(async move {
            let mut client = connect(&self.0).await;
            let tx = client.build_transaction().isolation_level(self.1).start().await.unwrap();
            let passage = pass(&tx, &call.barrier).await?;
            if passage.acts() {
                let moved = "INSERT INTO ledger (amount) VALUES ($1)";
                tx.execute(moved, &[&call.amount]).await.map_err(|error| failed("move", &error))?;
            }
            let ended = if call.commits { tx.commit().await } else { tx.rollback().await };
            ended.map(|()| passage).map_err(|error| failed("end", &error))
        })
    }

    fn ledger(&self) -> BoxFuture<'_, Vec<i64>> {
        Box::pin(amounts(&self.0))
    }

    fn forget(&self, kept: Duration) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { forget(&connect(&self.0).await, kept).await })
    }

    fn age<'a>(&'a self, saga: SagaId, step: &'a str, hours: u32) -> BoxFuture<'a, ()> {
        Box::pin(age(&self.0, saga, step, hours))
    }
}

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

/// What `second` comes to that has its snapshot before `first` does anything, passes the barrier while `first`
/// is under way, and goes on when `first` commits or is rolled back.
async fn race(
    url: &str,
    isolation: IsolationLevel,
    (first, second): (Barrier, Barrier),
    commits: bool,
) -> Result<Passage> {
    let (mut one, mut other, watcher) =
        (connect(url).await, connect(url).await, connect(url).await);
    let pid = number(&other, "SELECT pg_backend_pid()::int8").await;
    let ((looked, has_looked), (go, goes)) = (channel(), channel());
    let racing = tokio::spawn(async move {
        let tx = other.build_transaction().isolation_level(isolation).start().await.unwrap();
        tx.query("SELECT count(*) FROM ledger", &[]).await.unwrap();
        looked.send(()).unwrap();
        goes.await.unwrap();
        let passage = pass(&tx, &second).await?;
        tx.commit().await.map(|()| passage).map_err(|error| failed("commit", &error))
    });
    has_looked.await.unwrap();
    let tx = one.build_transaction().isolation_level(isolation).start().await.unwrap();
    let _ = pass(&tx, &first).await.unwrap();
    go.send(()).unwrap();
    waits(&watcher, pid).await;
    if commits {
        tx.commit().await.unwrap()
    } else {
        tx.rollback().await.unwrap()
    }
    racing.await.unwrap()
}

/// Waits until the connection of `pid` waits for another transaction.
async fn waits(watcher: &Client, pid: i64) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'"
    );
    until("the second waits", async || number(watcher, &sql).await > 0).await;
}

/// S5: whoever comes second waits for the first one's end, and does what that end asks for. With a snapshot
/// from before it is refused, and does so when it is tried again.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_second_waits_for_the_first() {
    let url = ledger().await;
    for (isolation, snapshots) in
        [(IsolationLevel::ReadCommitted, false), (IsolationLevel::RepeatableRead, true)]
    {
        for (undoes, committed, undone) in [
            ([false, true], Passage::Act, Passage::Empty),
            ([true, false], Passage::Late, Passage::Act),
            ([false, false], Passage::Repeated, Passage::Act),
            ([true, true], Passage::Repeated, Passage::Empty),
        ] {
            for (commits, expected) in [(true, committed), (false, undone)] {
                let (case, saga) = (format!("{isolation:?}, {undoes:?}, {commits}"), saga());
                let [first, second] =
                    undoes.map(|undoes| if undoes { compensation(saga) } else { action(saga) });
                let mut found = race(&url, isolation, (first, second.clone()), commits).await;
                assert_eq!(found.is_err(), commits && snapshots, "{case}: {found:?}");
                if let Err(error) = &found {
                    assert_eq!(error.code(), Code::StoreBusy, "{case}: {error}");
                    let call = BarrierCall { barrier: second, amount: 1, commits: true };
                    found = Participant(url.clone(), isolation).call(call).await;
                }
                assert_eq!(found.unwrap(), expected, "{case}");
            }
        }
    }
}

/// The planted defect: what was not there when it looked is there when it acts.
#[tokio::test(flavor = "multi_thread")]
async fn looking_first_carries_out_twice_and_too_late() {
    let url = ledger().await;
    for undoes in [false, true] {
        let saga = saga();
        let first = if undoes { compensation(saga) } else { action(saga) };
        let rivals = (first, looking(action(saga)));
        let found = race(&url, IsolationLevel::ReadCommitted, rivals, true).await.unwrap();
        assert_eq!(found, Passage::Act, "nothing noticed");
    }
}

/// S6: all that is old goes, a part at a time; what is younger stays.
#[tokio::test(flavor = "multi_thread")]
async fn old_rows_are_forgotten_in_parts() {
    let client = connect(&ledger().await).await;
    let rows = "INSERT INTO dtm_barrier.barrier (gid, create_time)
        SELECT n, now() - interval '30 seconds' - n * interval '1 minute' FROM generate_series(1, 5000) AS n";
    execute(&client, rows).await;
    let day = Duration::from_secs(86_400);
    assert_eq!(forget(&client, day).await.unwrap(), 5000 - 1439);
    assert_eq!(forget(&client, day).await.unwrap(), 0);
    assert_eq!(number(&client, "SELECT count(*) FROM dtm_barrier.barrier").await, 1439);
}

/// The statements of the book's page are those of a compensation.
#[tokio::test(flavor = "multi_thread")]
async fn the_pages_statements_are_a_compensation() {
    let page = include_str!("../../../../book/src/sagas.md");
    let mut blocks = page.split("```sql\n").filter_map(|rest| rest.split_once("```"));
    let (block, _) = blocks.find(|(block, _)| block.contains("ON CONSTRAINT")).unwrap();
    let (url, saga) = (ledger().await, "01964b2e-7d1c-7a00-8000-0123456789ab".parse().unwrap());
    execute(&connect(&url).await, block).await;
    let participant = Participant(url, IsolationLevel::ReadCommitted);
    for (barrier, expected) in [
        (Barrier::action(saga, "reserve_stock"), Passage::Late),
        (Barrier::compensation(saga, "reserve_stock"), Passage::Repeated),
    ] {
        let call = BarrierCall { barrier: barrier.unwrap(), amount: 1, commits: true };
        assert_eq!(participant.call(call).await.unwrap(), expected);
    }
}

/// A table that dtm made has times without a default, and no index of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_dtm_made_is_used_as_it_is() {
    let client = &mut connect(&ledger().await).await;
    let made = "ALTER TABLE dtm_barrier.barrier ALTER create_time DROP DEFAULT, ALTER create_time DROP NOT NULL;
        DROP INDEX dtm_barrier.barrier_create_time";
    execute(client, made).await;
    create(client).await.unwrap();
    let tx = client.transaction().await.unwrap();
    assert_eq!(pass(&tx, &compensation(saga())).await.unwrap(), Passage::Empty);
    tx.commit().await.unwrap();
    let dated =
        "SELECT count(*) FROM dtm_barrier.barrier WHERE create_time > now() - interval '1 hour'";
    assert_eq!(number(client, dated).await, 2);
}

/// It is named, and two that start at the same time make it.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_is_named_and_made() {
    let server = server::shared_postgres().await.unwrap();
    let name = server::unique("barrier");
    server.create_database(&name).await.unwrap();
    let url = server.url(&name);
    let (mut client, other) = (connect(&url).await, connect(&url).await);
    let tx = client.transaction().await.unwrap();
    let missing = pass(&tx, &action(saga())).await.unwrap_err();
    assert_eq!(missing.code(), Code::SchemaMissing);
    assert!(missing.to_string().contains("barrier::create"), "{missing}");
    tx.rollback().await.unwrap();
    let (one, other) = tokio::join!(create(&client), create(&other));
    one.and(other).unwrap();
    let tx = client.transaction().await.unwrap();
    assert_eq!(pass(&tx, &action(saga())).await.unwrap(), Passage::Act);
}

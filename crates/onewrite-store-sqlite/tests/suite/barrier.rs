//! S1, S3, S4, S5, S6: the barrier of a participant on SQLite.

use std::time::Duration;

use onewrite_core::{
    BoxFuture, Code, Error, Result,
    saga::{
        SagaId,
        barrier::{Barrier, Passage},
    },
};
use onewrite_store_sqlite::{
    barrier::{create, forget, pass},
    rusqlite::{self, Connection},
};
use onewrite_testkit::conformance::{BarrierCall, BarrierFixture, BarrierPlace};

mod driver {
    use super::*;

    onewrite_testkit::barrier_suite!(Participants);
}

struct Participants;

/// A folder with a database that has a ledger and the barrier.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let connection = folder.connect();
        let table = "PRAGMA journal_mode = WAL; CREATE TABLE ledger (n INTEGER PRIMARY KEY, amount INTEGER)";
        connection.execute_batch(table).unwrap();
        create(&connection).unwrap();
        folder
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.0.path().join("bank.db")
    }

    /// It waits: the last one that closes a file holds it for a moment.
    fn connect(&self) -> Connection {
        let connection = Connection::open(self.path()).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        connection
    }

    /// It never waits within a call: who waits holds up the others.
    fn connect_to_call(&self) -> Connection {
        let connection = self.connect();
        connection.busy_timeout(Duration::ZERO).unwrap();
        connection
    }

    pub(crate) fn amounts(&self) -> Vec<i64> {
        let connection = self.connect();
        let mut statement = connection.prepare("SELECT amount FROM ledger ORDER BY n").unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.collect::<rusqlite::Result<_>>().unwrap()
    }

    /// Makes the rows of a step older.
    pub(crate) fn age(&self, saga: SagaId, step: &str, hours: u32) {
        let older = "UPDATE dtm_barrier SET create_time = datetime(create_time, -?3 || ' hours') WHERE gid = ?1 AND branch_id = ?2";
        self.connect().execute(older, (saga.to_string(), step, hours)).unwrap();
    }

    fn answer(&self, call: &BarrierCall) -> Result<Passage> {
        let connection = self.connect_to_call();
        connection.execute_batch("BEGIN IMMEDIATE").map_err(busy)?;
        let passage = pass(&connection, &call.barrier)?;
        if passage.acts() {
            let moved = "INSERT INTO ledger (amount) VALUES (?1)";
            connection.execute(moved, [call.amount]).map_err(busy)?;
        }
        let end = if call.commits { "COMMIT" } else { "ROLLBACK" };
        connection.execute_batch(end).map_err(busy).map(|()| passage)
    }
}

fn busy(error: rusqlite::Error) -> Error {
    Error::new(Code::StoreBusy, "move").with_source(error)
}

impl BarrierFixture for Participants {
    fn participant(&self) -> BoxFuture<'_, Box<dyn BarrierPlace>> {
        Box::pin(async { Box::new(Folder::new()) as _ })
    }
}

impl BarrierPlace for Folder {
    fn create(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { create(&self.connect()) })
    }

    fn call(&self, call: BarrierCall) -> BoxFuture<'_, Result<Passage>> {
        Box::pin(async move { self.answer(&call) })
    }

    fn ledger(&self) -> BoxFuture<'_, Vec<i64>> {
        Box::pin(async { self.amounts() })
    }

    fn forget(&self, kept: Duration) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { forget(&self.connect(), kept) })
    }

    fn age<'a>(&'a self, saga: SagaId, step: &'a str, hours: u32) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.age(saga, step, hours) })
    }
}

fn action() -> Barrier {
    Barrier::action(SagaId(7), "pay").unwrap()
}

fn compensation() -> Barrier {
    Barrier::compensation(SagaId(7), "pay").unwrap()
}

fn call(barrier: Barrier) -> BarrierCall {
    BarrierCall { barrier, amount: 1, commits: true }
}

/// S5: who comes second is told to come again, and then does what the first one's end asks for.
#[test]
fn whoever_comes_second_is_told_to_come_again() {
    let (action, undo) = (action(), compensation());
    for (first, second, committed, undone) in [
        (&action, &undo, Passage::Act, Passage::Empty),
        (&undo, &action, Passage::Late, Passage::Act),
        (&action, &action, Passage::Repeated, Passage::Act),
        (&undo, &undo, Passage::Repeated, Passage::Empty),
    ] {
        for (end, expected) in [("COMMIT", committed), ("ROLLBACK", undone)] {
            let folder = Folder::new();
            let (one, other) = (folder.connect_to_call(), folder.connect_to_call());
            one.execute_batch("BEGIN IMMEDIATE").unwrap();
            let _ = pass(&one, first).unwrap();
            other.execute_batch("BEGIN").unwrap();
            let refused = pass(&other, second).unwrap_err();
            assert_eq!(refused.code(), Code::StoreBusy, "{refused}");
            other.execute_batch("ROLLBACK").unwrap();
            one.execute_batch(end).unwrap();
            assert_eq!(folder.answer(&call(second.clone())).unwrap(), expected, "{end}");
        }
    }
}

/// S5: who has read before somebody else wrote is refused, whatever it passes.
#[test]
fn a_transaction_that_has_read_before_is_refused() {
    let folder = Folder::new();
    let stale = folder.connect_to_call();
    stale.execute_batch("BEGIN; SELECT count(*) FROM ledger").unwrap();
    assert_eq!(folder.answer(&call(compensation())).unwrap(), Passage::Empty);
    assert_eq!(pass(&stale, &action()).unwrap_err().code(), Code::StoreBusy);
    stale.execute_batch("ROLLBACK").unwrap();
    assert_eq!(folder.answer(&call(action())).unwrap(), Passage::Late);
}

/// Looks whether an operation's row is there.
fn is_there(connection: &Connection, op: &str) -> bool {
    let sql = "SELECT EXISTS (SELECT 1 FROM dtm_barrier WHERE gid = ?1 AND op = ?2)";
    connection.query_row(sql, (SagaId(7).to_string(), op), |row| row.get(0)).unwrap()
}

/// The planted defect, here a participant that looks before its transaction: within one SQLite would refuse
/// what is stale. What was not there when it looked is there when it acts.
#[test]
fn looking_first_carries_out_twice_and_too_late() {
    for (first, ledger) in [(action(), &[1, 1][..]), (compensation(), &[1])] {
        let folder = Folder::new();
        let connection = folder.connect();
        let there = is_there(&connection, "action");
        let _ = folder.answer(&call(first)).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        let _ = pass(&connection, &action()).unwrap();
        if !there {
            connection.execute_batch("INSERT INTO ledger (amount) VALUES (1)").unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
        assert_eq!(folder.amounts(), ledger, "nothing noticed");
    }
}

#[test]
fn outside_a_transaction_it_is_refused() {
    let folder = Folder::new();
    let refused = pass(&folder.connect(), &action()).unwrap_err();
    assert_eq!(refused.code(), Code::UnsafeSetting);
}

#[test]
fn a_missing_table_is_named() {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch("BEGIN").unwrap();
    let missing = pass(&connection, &action()).unwrap_err();
    assert_eq!(missing.code(), Code::SchemaMissing);
    assert!(missing.to_string().contains("barrier::create"), "{missing}");
}

/// The statements of the book's page are those of a compensation.
#[test]
fn the_pages_statements_are_a_compensation() {
    let page = include_str!("../../../../book/src/sagas.md");
    let mut blocks = page.split("```sql\n").filter_map(|rest| rest.split_once("```"));
    let (block, _) = blocks.find(|(block, _)| block.contains("INTO dtm_barrier (")).unwrap();
    let folder = Folder::new();
    folder.connect().execute_batch(block).unwrap();
    let saga = "01964b2e-7d1c-7a00-8000-0123456789ab".parse().unwrap();
    let late = call(Barrier::action(saga, "reserve_stock").unwrap());
    assert_eq!(folder.answer(&late).unwrap(), Passage::Late);
    let again = call(Barrier::compensation(saga, "reserve_stock").unwrap());
    assert_eq!(folder.answer(&again).unwrap(), Passage::Repeated);
}

/// S6: all that is old goes, a part at a time; what is younger stays.
#[test]
fn old_rows_are_forgotten_in_parts() {
    let folder = Folder::new();
    let connection = folder.connect();
    let rows = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 5000)
        INSERT INTO dtm_barrier (gid, create_time) SELECT n, datetime('now', '-30 seconds', -n || ' minutes') FROM n";
    connection.execute_batch(rows).unwrap();
    let day = Duration::from_secs(86_400);
    assert_eq!(forget(&connection, day).unwrap(), 5000 - 1439);
    assert_eq!(forget(&connection, day).unwrap(), 0);
}

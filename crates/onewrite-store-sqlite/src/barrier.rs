//! The barrier of a participant whose effect is in SQLite: passed first, in the transaction of the effect.
//!
//! See [`onewrite_core::saga::barrier`] for what it guarantees. It is as durable as the transaction it is
//! passed in. Facts are stored in the table `dtm_barrier`, which `sql/barrier.sql` documents for other
//! languages.

use std::time::Duration;

use onewrite_core::{
    Code, Error, Result,
    saga::barrier::{self, Barrier, Passage},
};
use rusqlite::{Connection, OptionalExtension as _};

use crate::error::While;

/// Makes the table.
pub(crate) const CREATE: &str = include_str!("../sql/barrier.sql");

/// Inserts a row; its conflict is not an error.
pub(crate) const INSERT: &str =
    "INSERT INTO dtm_barrier (trans_type, gid, branch_id, op, barrier_id, reason)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (gid, branch_id, op, barrier_id) DO NOTHING";

/// Why a row is there.
pub(crate) const REASON: &str = "SELECT reason FROM dtm_barrier
    WHERE gid = ?1 AND branch_id = ?2 AND op = ?3 AND barrier_id = ?4";

/// Deletes some of the rows that are older than so many seconds.
pub(crate) const FORGET: &str = "DELETE FROM dtm_barrier WHERE id IN (SELECT id FROM dtm_barrier
    WHERE create_time < datetime('now', -?1 || ' seconds') ORDER BY create_time LIMIT 1000)";

/// What is being done, should it fail.
pub(crate) const PASS: &str = "pass the barrier (`barrier::create` makes its table)";

/// What one `FORGET` deletes at most.
pub(crate) const CHUNK: u64 = 1000;

/// Makes the barrier's table, where it is missing.
///
/// # Errors
/// What the database says.
pub fn create(conn: &Connection) -> Result<()> {
    conn.execute_batch(CREATE).during("make the barrier's table")
}

/// Passes `barrier` in the transaction that is open on `tx`, and says what the call is to do. Pass it before
/// anything else, carry the effect out in the same transaction on [`Passage::Act`] alone, and commit in
/// any case. After an error roll back: the call is to be tried again.
///
/// Begin the transaction with `BEGIN IMMEDIATE`: a deferred one that has read is refused when somebody else
/// wrote meanwhile.
///
/// # Errors
/// [`Code::UnsafeSetting`] outside a transaction, [`Code::StoreBusy`] when another transaction is in the
/// way, [`Code::SchemaMissing`], or what the database says.
pub fn pass(tx: &Connection, barrier: &Barrier) -> Result<Passage> {
    if tx.is_autocommit() {
        return Err(outside());
    }
    let mut inserted = Vec::new();
    for op in barrier.ops() {
        let mut statement = tx.prepare_cached(INSERT).during(PASS)?;
        if statement.execute(barrier.row(op)).during(PASS)? > 0 {
            inserted.push(op);
        }
    }
    if let Some(passage) = barrier.passage(&inserted) {
        return Ok(passage);
    }
    let mut statement = tx.prepare_cached(REASON).during(PASS)?;
    let key = barrier.key(barrier.op());
    let reason: Option<String> =
        statement.query_row(key, |row| row.get(0)).optional().during(PASS)?;
    barrier.passage_of(reason.as_deref())
}

/// Deletes the rows that are older than `kept`, a thousand at a time; says how many. Call it outside a
/// transaction, now and then. What comes after its row is gone is carried out again, so let `kept` exceed
/// the longest that a call can be under way: retries, queues and stalled processes together.
///
/// # Errors
/// [`Code::UnsafeSetting`] for less than [`barrier::KEPT_MIN`], or what the database says.
pub fn forget(conn: &Connection, kept: Duration) -> Result<u64> {
    let kept = barrier::kept_secs(kept)?;
    let mut forgotten = 0;
    loop {
        let deleted = conn.execute(FORGET, [kept]).during("forget old rows of the barrier")?;
        forgotten += deleted as u64;
        if (deleted as u64) < CHUNK {
            return Ok(forgotten);
        }
    }
}

pub(crate) fn outside() -> Error {
    Error::new(
        Code::UnsafeSetting,
        "the barrier was passed outside a transaction: its row would not share the fate of your effect",
    )
}

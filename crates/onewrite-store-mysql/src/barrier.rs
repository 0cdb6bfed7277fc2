//! The barrier of a participant whose effect is in MariaDB or MySQL: passed first, in the transaction of the
//! effect.
//!
//! See [`onewrite_core::saga::barrier`] for what it guarantees. A rival's open transaction is waited for, at
//! every isolation level. Where the server ends one of two that wait for each other, or one has waited for
//! too long ([`onewrite_core::Code::StoreBusy`]), that call is to be tried again; a passage is never wrong.
//! Facts are stored in the table `dtm_barrier.barrier`, one for all databases of a server, which
//! `sql/barrier.sql` documents for other languages.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use onewrite_core::{
    Result,
    saga::barrier::{self, Barrier, Passage},
};

use crate::{
    client::Client,
    row::{self, binds},
};

/// Makes the table.
const CREATE: &str = include_str!("../sql/barrier.sql");

/// Whether the table is there. Who may not make it may use it.
const IS_MADE: &str = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'dtm_barrier' AND table_name = 'barrier'";

/// Inserts a row; says by its count whether it was not there, also to a client that asks for found rows. What
/// else `IGNORE` would let through was refused when the barrier was made.
const INSERT: &str = "INSERT IGNORE INTO dtm_barrier.barrier (trans_type, gid, branch_id, op, barrier_id, reason, create_time, \
    update_time) VALUES (?, ?, ?, ?, ?, ?, UTC_TIMESTAMP(), UTC_TIMESTAMP())";

/// Why a row is there. It locks, so that it reads what is, and not what the transaction's snapshot holds.
const REASON: &str = "SELECT reason FROM dtm_barrier.barrier \
    WHERE gid = ? AND branch_id = ? AND op = ? AND barrier_id = ? LOCK IN SHARE MODE";

/// The planted defect: whether a row is there.
const LOOK: &str = "SELECT 1 FROM dtm_barrier.barrier WHERE gid = ? AND branch_id = ? AND op = ? AND barrier_id = ?";

/// Deletes some of the rows that are older than so many seconds.
const FORGET: &str = "DELETE FROM dtm_barrier.barrier WHERE create_time < UTC_TIMESTAMP() - INTERVAL ? SECOND \
    ORDER BY create_time LIMIT 1000";

/// What one `FORGET` deletes at most.
const CHUNK: u64 = 1000;

/// What is being done, should it fail.
const PASS: &str = "pass the barrier (`barrier::create` makes its table)";

/// Makes the barrier's database and table, where they are missing. It commits what is open on `conn`.
///
/// # Errors
/// What the database says.
pub async fn create(conn: &mut impl Queryable) -> Result<()> {
    make(conn).await
}

/// Passes `barrier` in the transaction that is open on `tx`, and says what the call is to do. Pass it before
/// anything else, carry the effect out in the same transaction on [`Passage::Act`] alone, and commit in
/// any case. After an error roll back: the call is to be tried again.
///
/// There must be a transaction: without one the row is committed at once, whatever becomes of the effect. It
/// cannot be told here.
///
/// A round trip for an action, two for a compensation; one more for an action that came before.
///
/// # Errors
/// [`onewrite_core::Code::StoreBusy`] when the server ended this transaction for the sake of another,
/// [`onewrite_core::Code::SchemaMissing`], or what the database says.
pub async fn pass(tx: &mut impl Queryable, barrier: &Barrier) -> Result<Passage> {
    run(tx, barrier).await
}

/// Deletes the rows that are older than `kept`, a thousand at a time; says how many. Call it outside a
/// transaction, now and then. What comes after its row is gone is carried out again, so let `kept` exceed
/// the longest that a call can be under way: retries, queues and stalled processes together.
///
/// In a table that dtm itself made, the times of other programs' rows are those of their sessions' time
/// zones: add half a day there.
///
/// # Errors
/// [`onewrite_core::Code::UnsafeSetting`] for less than [`barrier::KEPT_MIN`], or what the database says.
pub async fn forget(conn: &mut impl Queryable, kept: Duration) -> Result<u64> {
    delete(conn, kept).await
}

/// The same as [`create`] for any client.
pub(crate) async fn make(on: &mut impl Client) -> Result<()> {
    let making = "make the barrier's table";
    let found = on.text(IS_MADE, making).await?.into_iter().next();
    if found.map_or(Ok(0), |mut found| row::number(&mut found, 0))? > 0 {
        return Ok(());
    }
    for statement in CREATE.split_inclusive(";\n") {
        on.text(statement, making).await?;
    }
    Ok(())
}

/// The same as [`pass`] for any client.
pub(crate) async fn run(on: &mut impl Client, barrier: &Barrier) -> Result<Passage> {
    let mut inserted = Vec::new();
    for op in barrier.ops() {
        if insert(on, barrier, op).await? {
            inserted.push(op);
        }
    }
    if let Some(passage) = barrier.passage(&inserted) {
        return Ok(passage);
    }
    let [gid, branch, op, number] = barrier.key(barrier.op());
    let found = on.query(REASON, binds![gid, branch, op, number], PASS).await?.into_iter().next();
    let reason = found.map(|mut found| row::text(&mut found, 0)).transpose()?;
    barrier.passage_of(reason.as_deref())
}

/// Inserts the row of `op`; says whether it was not there.
async fn insert(on: &mut impl Client, barrier: &Barrier, op: &str) -> Result<bool> {
    let [trans_type, gid, branch, op, number, reason] = barrier.row(op);
    let mut there = None;
    if barrier.looks_first() {
        let found = on.query(LOOK, binds![gid, branch, op, number], PASS).await?;
        there = Some(!found.is_empty());
    }
    let values = binds![trans_type, gid, branch, op, number, reason];
    let inserted = on.execute(INSERT, values, PASS).await? > 0;
    Ok(there.map_or(inserted, |there| !there))
}

/// The same as [`forget`] for any client.
pub(crate) async fn delete(on: &mut impl Client, kept: Duration) -> Result<u64> {
    let kept = barrier::kept_secs(kept)?;
    let mut forgotten = 0;
    loop {
        let deleted = on.execute(FORGET, binds![kept], "forget old rows of the barrier").await?;
        forgotten += deleted;
        if deleted < CHUNK {
            return Ok(forgotten);
        }
    }
}

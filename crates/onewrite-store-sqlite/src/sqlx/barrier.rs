//! The barrier within a `sqlx` transaction.

use std::time::Duration;

use onewrite_core::{
    Result,
    saga::barrier::{self, Barrier, Passage},
};
use sqlx::{Connection as _, Row as _, SqliteConnection};

use super::failed;
use crate::barrier::{CHUNK, CREATE, FORGET, INSERT, PASS, REASON, outside};

/// Makes the barrier's table, where it is missing. See [`crate::barrier`].
///
/// # Errors
/// What the database says.
pub async fn create(conn: &mut SqliteConnection) -> Result<()> {
    let made = sqlx::raw_sql(CREATE).execute(conn).await;
    made.map(drop).map_err(failed("make the barrier's table"))
}

/// Passes `barrier` in the transaction that is open on `tx`. Pass `&mut *tx`, of a transaction that was begun
/// by `sqlx`. See [`crate::barrier::pass`].
///
/// # Errors
/// As [`crate::barrier::pass`].
pub async fn pass(tx: &mut SqliteConnection, barrier: &Barrier) -> Result<Passage> {
    if !tx.is_in_transaction() {
        return Err(outside());
    }
    let mut inserted = Vec::new();
    for op in barrier.ops() {
        let values = barrier.row(op).map(str::to_owned);
        let query = values.into_iter().fold(sqlx::query(INSERT), sqlx::query::Query::bind);
        if query.execute(&mut *tx).await.map_err(failed(PASS))?.rows_affected() > 0 {
            inserted.push(op);
        }
    }
    if let Some(passage) = barrier.passage(&inserted) {
        return Ok(passage);
    }
    let key = barrier.key(barrier.op()).map(str::to_owned);
    let query = key.into_iter().fold(sqlx::query(REASON), sqlx::query::Query::bind);
    let found = query.fetch_optional(tx).await.map_err(failed(PASS))?;
    let reason: Option<String> =
        found.map(|row| row.try_get(0)).transpose().map_err(failed(PASS))?;
    barrier.passage_of(reason.as_deref())
}

/// Deletes the rows that are older than `kept`; says how many. See [`crate::barrier::forget`].
///
/// # Errors
/// As [`crate::barrier::forget`].
pub async fn forget(conn: &mut SqliteConnection, kept: Duration) -> Result<u64> {
    let kept = barrier::kept_secs(kept)?;
    let mut forgotten = 0;
    loop {
        let done = sqlx::query(FORGET).bind(kept).execute(&mut *conn).await;
        let deleted = done.map_err(failed("forget old rows of the barrier"))?.rows_affected();
        forgotten += deleted;
        if deleted < CHUNK {
            return Ok(forgotten);
        }
    }
}

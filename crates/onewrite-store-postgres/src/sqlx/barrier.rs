//! The barrier within a `sqlx` transaction.

use std::time::Duration;

use onewrite_core::{
    Code, Error, Result,
    saga::barrier::{self, Barrier, Passage},
};
use sqlx::{Connection as _, PgConnection, Row as _};

use super::failed;
use crate::barrier::{Asks, CHUNK, CREATE, FORGET, IS_MADE, PASS, run};

/// Makes the barrier's table, where it is missing. See [`crate::barrier`].
///
/// # Errors
/// What the database says.
pub async fn create(conn: &mut PgConnection) -> Result<()> {
    let making = failed("make the barrier's table");
    let found = sqlx::query(IS_MADE).fetch_one(&mut *conn).await;
    if found.and_then(|row| row.try_get(0)).map_err(&making)? {
        return Ok(());
    }
    sqlx::raw_sql(CREATE).execute(conn).await.map(drop).map_err(making)
}

/// Passes `barrier` in the transaction that is open on `tx`. Pass `&mut *tx`, of a transaction that was begun
/// by `sqlx`. See [`crate::barrier::pass`].
///
/// # Errors
/// As [`crate::barrier::pass`], and [`Code::UnsafeSetting`] outside a transaction.
pub async fn pass(tx: &mut PgConnection, barrier: &Barrier) -> Result<Passage> {
    if !tx.is_in_transaction() {
        return Err(Error::new(
            Code::UnsafeSetting,
            "the barrier was passed outside a transaction of sqlx: its row would not share the fate of your effect",
        ));
    }
    run(tx, barrier).await
}

/// Deletes the rows that are older than `kept`; says how many. See [`crate::barrier::forget`].
///
/// # Errors
/// As [`crate::barrier::forget`].
pub async fn forget(conn: &mut PgConnection, kept: Duration) -> Result<u64> {
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

impl Asks for PgConnection {
    async fn texts(&mut self, sql: &'static str, binds: &[&str]) -> Result<Vec<String>> {
        let texts = binds.iter().map(|text| (*text).to_owned());
        let query = texts.fold(sqlx::query(sql), sqlx::query::Query::bind);
        let rows = query.fetch_all(self).await.map_err(failed(PASS))?;
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(failed(PASS))
    }
}

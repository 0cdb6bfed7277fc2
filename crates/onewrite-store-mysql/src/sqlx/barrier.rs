//! The barrier within a `sqlx` transaction.

use std::time::Duration;

use onewrite_core::{
    Code, Error, Result,
    saga::barrier::{Barrier, Passage},
};
use sqlx::{Connection as _, MySqlConnection};

use super::client::Sqlx;
use crate::barrier::{delete, make, run};

/// Makes the barrier's database and table, where they are missing. It commits what is open on `conn`. See
/// [`crate::barrier`].
///
/// # Errors
/// What the database says.
pub async fn create(conn: &mut MySqlConnection) -> Result<()> {
    make(&mut Sqlx(conn)).await
}

/// Passes `barrier` in the transaction that is open on `tx`. Pass `&mut *tx`, of a transaction that was begun
/// by `sqlx`. See [`crate::barrier::pass`].
///
/// # Errors
/// As [`crate::barrier::pass`], and [`Code::UnsafeSetting`] outside a transaction.
pub async fn pass(tx: &mut MySqlConnection, barrier: &Barrier) -> Result<Passage> {
    if !tx.is_in_transaction() {
        return Err(Error::new(
            Code::UnsafeSetting,
            "the barrier was passed outside a transaction of sqlx: its row would not share the fate of your effect",
        ));
    }
    run(&mut Sqlx(tx), barrier).await
}

/// Deletes the rows that are older than `kept`; says how many. See [`crate::barrier::forget`].
///
/// # Errors
/// As [`crate::barrier::forget`].
pub async fn forget(conn: &mut MySqlConnection, kept: Duration) -> Result<u64> {
    delete(&mut Sqlx(conn), kept).await
}

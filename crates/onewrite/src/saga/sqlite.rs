//! Steps in a transaction of a SQLite store: the saga's own, which journals them in the same commit.
//!
//! ```
//! # use onewrite::saga::{Cx, Finished, Plan, Retry, SagaType, StepError, sqlite};
//! # use onewrite::sqlite::SqliteStore;
//! # struct Shop { store: SqliteStore }
//! # fn plan(store: &SqliteStore) -> onewrite::Result<()> {
//! let saga = SagaType::plan("move_cents", |mut plan: Plan<Shop, (String, i64)>| {
//!     let order = plan.input();
//!     let balance = plan.step_in("withdraw", order, sqlite::action(store, |tx, _, (account, cents): (String, i64)| {
//!         let taken = tx.execute("UPDATE account SET cents = cents - ?2 WHERE id = ?1 AND cents >= ?2", (&account, cents))?;
//!         if taken == 0 { return Err(StepError::abort("not enough")); }
//!         Ok(tx.query_row("SELECT cents FROM account WHERE id = ?1", [&account], |row| row.get::<_, i64>(0))?)
//!     })).compensate_in(sqlite::compensation(store, |tx, _, (account, cents), balance| {
//!         // Without a balance it was not taken, and cannot be any more.
//!         if balance.is_some() { tx.execute("UPDATE account SET cents = cents + ?2 WHERE id = ?1", (&account, cents))?; }
//!         Ok(())
//!     }));
//!     plan.finish(balance)
//! })?;
//! # Ok(()) }
//! ```

use onewrite_engine::saga::{Attempting, Cx, InTransaction, Retry, StepError, told};
use onewrite_store_sqlite::{SqliteStore, rusqlite::Connection};
use serde::{Serialize, de::DeserializeOwned};

/// An action in a transaction of `store`, which must be the one that the saga is run from.
///
/// The function runs on the store's only writer: keep it short, and let it have no effects elsewhere, for
/// it may run twice before the commit.
pub fn action<S, V, T, E, F>(store: &SqliteStore, function: F) -> InTransaction<S, V, T, E>
where
    S: Send + Sync + 'static,
    V: DeserializeOwned,
    T: Serialize,
    E: Into<StepError>,
    F: Fn(&Connection, Cx<S>, V) -> Result<T, E> + Clone + Send + Sync + 'static,
{
    let store = store.clone();
    InTransaction::new(move |attempt: Attempting<S>, journal| {
        let (store, function) = (store.clone(), function.clone());
        let work = move |tx: &Connection| {
            let (cx, value) = attempt.given()?;
            told(function(tx, cx, value))
        };
        Box::pin(async move { store.carry_out(work, journal).await })
    })
}

/// A compensation in a transaction of `store`, as [`action`].
///
/// Where the action was a transaction too, an output of `None` says that it had no effect and cannot have
/// one any more.
pub fn compensation<S, V, T, F>(
    store: &SqliteStore,
    function: F,
) -> InTransaction<S, (V, Option<T>), (), Retry>
where
    S: Send + Sync + 'static,
    V: DeserializeOwned,
    T: DeserializeOwned,
    F: Fn(&Connection, Cx<S>, V, Option<T>) -> Result<(), Retry> + Clone + Send + Sync + 'static,
{
    let store = store.clone();
    InTransaction::new(move |attempt: Attempting<S>, journal| {
        let (store, function) = (store.clone(), function.clone());
        let work = move |tx: &Connection| {
            let (cx, value, output) = attempt.given_back()?;
            told(function(tx, cx, value, output))
        };
        Box::pin(async move { store.carry_out(work, journal).await })
    })
}

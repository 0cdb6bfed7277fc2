//! Steps in a transaction of a MariaDB or MySQL store: the saga's own, which journals them in the same commit.
//!
//! Each step is a commit of its own, which the transitions of other sagas do not share.

use std::sync::Arc;

use onewrite_core::BoxFuture;
use onewrite_engine::saga::{Attempting, Cx, InTransaction, Retry, StepError};
use onewrite_store_mysql::{MysqlStore, mysql_async::Transaction};
use serde::{Serialize, de::DeserializeOwned};

/// An action in a transaction of `store`, which must be the one that the saga is run from:
/// `action(&store, |tx, cx, order| Box::pin(reserve(tx, cx, order)))`.
pub fn action<S, V, T, E, F>(store: &MysqlStore, function: F) -> InTransaction<S, V, T, E>
where
    S: Send + Sync + 'static,
    V: DeserializeOwned + Send + 'static,
    T: Serialize + Send + 'static,
    E: Into<StepError> + Send + 'static,
    F: for<'a> Fn(&'a mut Transaction<'static>, Cx<S>, V) -> BoxFuture<'a, Result<T, E>>
        + Send
        + Sync
        + 'static,
{
    let (store, function) = (store.clone(), Arc::new(function));
    InTransaction::new(move |attempt: Attempting<S>, journal| {
        let (store, function) = (store.clone(), Arc::clone(&function));
        Box::pin(async move {
            store
                .carry_out(
                    |tx| {
                        Box::pin(async move {
                            let (cx, value) = attempt.given()?;
                            attempt.answer(async { function(tx, cx, value).await }).await
                        })
                    },
                    journal,
                )
                .await
        })
    })
}

/// A compensation in a transaction of `store`, as [`action`].
///
/// Where the action was a transaction too, an output of `None` says that it had no effect and cannot have
/// one any more.
pub fn compensation<S, V, T, F>(
    store: &MysqlStore,
    function: F,
) -> InTransaction<S, (V, Option<T>), (), Retry>
where
    S: Send + Sync + 'static,
    V: DeserializeOwned + Send + 'static,
    T: DeserializeOwned + Send + 'static,
    F: for<'a> Fn(
            &'a mut Transaction<'static>,
            Cx<S>,
            V,
            Option<T>,
        ) -> BoxFuture<'a, Result<(), Retry>>
        + Send
        + Sync
        + 'static,
{
    let (store, function) = (store.clone(), Arc::new(function));
    InTransaction::new(move |attempt: Attempting<S>, journal| {
        let (store, function) = (store.clone(), Arc::clone(&function));
        Box::pin(async move {
            store
                .carry_out(
                    |tx| {
                        Box::pin(async move {
                            let (cx, value, output) = attempt.given_back()?;
                            attempt.answer(async { function(tx, cx, value, output).await }).await
                        })
                    },
                    journal,
                )
                .await
        })
    })
}

//! Starts without a runner: written by whoever starts the saga, and left to whoever runs its partition.

use std::sync::Arc;

use onewrite_core::{
    Code, Error, Result,
    saga::{SagaId, journal::Journal},
    store::{Batch, Durability, Item, Op, Outcome},
};

use super::start::First;

/// Whether it is new.
pub(super) async fn start(store: &dyn Journal, first: First, id: SagaId) -> Result<bool> {
    let define = Op::DefineSaga(Arc::clone(&first.checked));
    commit(store, vec![define, Op::StartSaga(Arc::new(first.row(id, false)))]).await
}

/// One item that needs no lease; whether it changed anything.
pub(super) async fn commit(store: &dyn Journal, ops: Vec<Op>) -> Result<bool> {
    let items = vec![Item { fence: None, ops }];
    let batch = Batch { durability: Durability::Durable, items };
    match store.commit(batch).await?.pop() {
        Some(Outcome::Applied(count)) => Ok(count > 0),
        Some(Outcome::Failed(error)) => Err(error),
        Some(Outcome::Fenced) | None => {
            Err(Error::new(Code::InvariantBroken, "a store refused a write without a lease"))
        }
    }
}

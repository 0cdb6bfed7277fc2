//! The row of a saga that is started: by its runner, under a lease, or by anybody else.

use std::sync::Arc;

use onewrite_core::{
    Partition, Text, Timestamp,
    position::partition_of,
    sabotage::Sabotage,
    saga::{
        Checked, Json, Parent, Saga, SagaId,
        journal::{NewSaga, PARTITIONS, Standing, State},
    },
};

/// Whose owner runs the sagas of this name about `key`.
pub(super) fn partition(checked: &Checked, key: &str) -> Partition {
    partition_of(&format!("{}/{key}", checked.definition().name), PARTITIONS)
}

/// A saga to be started.
pub(super) struct First {
    pub(super) checked: Arc<Checked>,
    pub(super) key: Text,
    pub(super) run: u32,
    pub(super) input: Json,
    pub(super) parent: Option<Parent>,
    pub(super) started_at: Timestamp,
}

impl First {
    /// Its row. Without the lease it is left to its owner, as due at once.
    pub(super) fn row(self, id: SagaId, leased: bool) -> NewSaga {
        let Self { checked, key, run, input, parent, started_at } = self;
        let (mut standing, mut awaits) = (Standing::leased(State::Running), Vec::new());
        if checked.has_waits() {
            let (checked, input) = (Arc::clone(&checked), input.clone());
            let saga = Saga::started(id, checked, input, started_at, Sabotage::default());
            (standing, awaits) = (saga.standing().clone(), saga.awaited());
        }
        if !leased {
            standing = Standing::waiting(State::Running, started_at);
        }
        let partition = partition(&checked, &key);
        let (name, definition) = (checked.definition().name.clone().into(), checked.id().clone());
        let attributes = checked.attributes(&input);
        NewSaga {
            id,
            name,
            key,
            run,
            partition,
            definition,
            input,
            standing,
            awaits,
            started_at,
            parent,
            attributes,
        }
    }
}

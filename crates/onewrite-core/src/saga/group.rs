//! Starts and transitions of many sagas, for stores that write them together.

use std::collections::{BTreeSet, HashSet};

use super::{
    SagaId,
    journal::{NewSaga, Transition},
};
use crate::{
    Partition,
    lease::{Epoch, Fence},
    store::{Item, Op},
};

/// A batch that consists of starts and transitions alone: what the engine of sagas writes most. Each
/// stands with its place in the batch.
#[derive(Debug, Default)]
pub struct Group<'a> {
    /// The starts.
    pub starts: Vec<(usize, Option<&'a Fence>, &'a NewSaga)>,
    /// The transitions, at most one of each saga.
    pub advances: Vec<(usize, Option<&'a Fence>, &'a Transition)>,
    /// The leases that they are written under: partition and epoch, in one order.
    pub leases: BTreeSet<(Partition, Epoch)>,
}

impl<'a> Group<'a> {
    /// The group that `items` are, if they are nothing else.
    #[must_use]
    pub fn of(items: &'a [Item]) -> Option<Self> {
        let mut group = Self::default();
        let mut sagas: HashSet<SagaId> = HashSet::new();
        for (place, item) in items.iter().enumerate() {
            let fence = item.fence.as_ref();
            match item.ops.as_slice() {
                [Op::StartSaga(new)] if new.awaits.is_empty() => {
                    group.starts.push((place, fence, new));
                }
                [Op::AdvanceSaga(next)] if next.is_plain() && sagas.insert(next.saga) => {
                    group.advances.push((place, fence, next));
                }
                _ => return None,
            }
            if fence.is_some_and(|fence| fence.scope != super::journal::SCOPE) {
                return None;
            }
            group.leases.extend(fence.map(|fence| (fence.partition, fence.epoch)));
        }
        (!items.is_empty()).then_some(group)
    }
}

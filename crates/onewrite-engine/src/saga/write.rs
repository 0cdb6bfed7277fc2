//! What a runner writes: transitions and starts, gathered into group commits.

use std::{fmt, sync::Arc};

use onewrite_core::{
    Partition, Result, Text,
    lease::Fence,
    saga::{SagaId, journal},
    store::{Batch, Durability, Item, Op, Outcome},
};

use super::handle::Start;

/// One item on its way to the store, and whom its outcome concerns.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) item: Item,
    pub(super) of: Of,
    /// How often the database refused it alone: it shares no statement any more.
    pub(super) refused: u32,
}

impl Write {
    pub(super) fn new(item: Item, of: Of) -> Self {
        Self { item, of, refused: 0 }
    }

    /// The partition under whose lease it is written, if under one.
    pub(super) fn leased(&self) -> Option<Partition> {
        self.item.fence.as_ref().map(|fence| fence.partition)
    }
}

/// Whom the outcome of an item concerns.
#[derive(Debug)]
pub(super) enum Of {
    /// A start, and the partition whose owner runs it.
    Start(Box<Start>, Partition),
    /// A transition of a saga of this partition.
    Saga(SagaId, Partition),
    /// Nobody's.
    Nobody(Partition),
}

impl Of {
    pub(super) fn partition(&self) -> Partition {
        match self {
            Self::Start(_, partition) | Self::Saga(_, partition) | Self::Nobody(partition) => {
                *partition
            }
        }
    }
}

/// As an operator is told.
impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(start, _) => write!(f, "the start of `{}`", start.key),
            Self::Saga(id, _) => write!(f, "the saga {id}"),
            Self::Nobody(partition) => write!(f, "a request in partition {partition}"),
        }
    }
}

/// Writes that share one commit, and what became of them.
pub(super) type Committed = (Vec<Write>, Result<Vec<Outcome>>);

/// One transition, under the lease of its partition.
pub(super) fn transition(fence: Fence, transition: journal::Transition, told: Vec<Op>) -> Write {
    let of = Of::Saga(transition.saga, fence.partition);
    let mut ops = told;
    ops.push(Op::AdvanceSaga(Arc::new(transition)));
    Write::new(Item { fence: Some(fence), ops }, of)
}

/// Takes a signal that means nothing to this saga, as its owner sees it; of one that has ended, as anybody
/// does.
pub(super) fn drop_signal(
    saga: SagaId,
    partition: Partition,
    fence: Option<Fence>,
    signal: Text,
) -> Write {
    let ops = vec![Op::DropSignal { saga, signal }];
    Write::new(Item { fence, ops }, Of::Nobody(partition))
}

/// Commits writes together.
pub(super) async fn commit(store: Arc<dyn journal::Journal>, writes: Vec<Write>) -> Committed {
    // Copied, and cheaply so: should nothing be committed, they are sent again.
    let items = writes.iter().map(|write| write.item.clone()).collect();
    let outcomes = store.commit(Batch { durability: Durability::Durable, items }).await;
    (writes, outcomes)
}

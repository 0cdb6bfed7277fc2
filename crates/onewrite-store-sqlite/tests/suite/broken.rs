//! Stores that break one promise each, for which no defect is planted in the store itself: the case of
//! that promise notices.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use onewrite_core::{
    BoxFuture, Partition, Result, Sequence, Text, Timestamp,
    flow::{Trace, Whereabouts},
    inbox::Gap,
    lease::Fence,
    parking::{ParkedKey, ParkedRecord},
    position::Source,
    store::{
        Batch, Claim, Claimed, Cursor, Find, Item, LeaseState, Outcome, Page, Read, SinkState,
        Store, Watch,
    },
};
use onewrite_testkit::conformance::{self, StoreFixture, StorePlace, UserTx};

use crate::conformance::Sqlite;

/// What a store does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Commits each operation by itself.
    Torn,
    /// Lets one failed item fail the whole batch.
    AllOrNothing,
    /// Lets every member hold every lease.
    Shared,
    /// Steps over numbers whose transactions are still open.
    StepsOver,
    /// Never says that more follows.
    NoMore,
    /// Reads events of every kind.
    AnyKind,
    /// Reads as many bytes as there are.
    Endless,
    /// Tells the time of another machine.
    AnotherClock,
    /// Forgets what is trimmed.
    NoStory,
    /// Hands parked records out from the back.
    LastInFirstOut,
    /// Mixes up the parked keys of its scopes.
    OneScope,
    /// Has no limit on a trim.
    TrimsAll,
    /// Starts new sinks with what is in the log.
    NoNow,
    /// Lets leases go on for ever.
    NoExpiry,
    /// Never wakes who watches.
    Deaf,
}

struct Broken(Fault);

impl StoreFixture for Broken {
    fn place(&self, partitions: u16) -> BoxFuture<'_, Box<dyn StorePlace>> {
        Box::pin(async move {
            let place = StoreFixture::place(&Sqlite::default(), partitions).await;
            Box::new(BrokenPlace { fault: self.0, place }) as Box<dyn StorePlace>
        })
    }
}

struct BrokenPlace {
    fault: Fault,
    place: Box<dyn StorePlace>,
}

impl StorePlace for BrokenPlace {
    fn open(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async {
            let store = self.place.open().await;
            Arc::new(BrokenStore { fault: self.fault, store }) as Arc<dyn Store>
        })
    }

    fn begin(&self) -> BoxFuture<'_, Box<dyn UserTx>> {
        self.place.begin()
    }

    fn insert<'a>(&'a self, aggregate_id: &'a str) -> BoxFuture<'a, ()> {
        self.place.insert(aggregate_id)
    }
}

struct BrokenStore {
    fault: Fault,
    store: Arc<dyn Store>,
}

impl BrokenStore {
    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// Commits every operation as an item of its own, one batch after the other.
    async fn torn(&self, batch: Batch) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for Item { fence, ops } in batch.items {
            let mut outcome = Outcome::Applied(0);
            for op in ops {
                let items = vec![Item { fence: fence.clone(), ops: vec![op] }];
                let one = Batch { durability: batch.durability, items };
                let next = self.store.commit(one).await?.remove(0);
                if matches!(outcome, Outcome::Applied(_)) {
                    outcome = next;
                }
            }
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }
}

impl Store for BrokenStore {
    fn source(&self) -> Source {
        self.store.source()
    }

    fn now(&self) -> BoxFuture<'_, Result<Timestamp>> {
        Box::pin(async {
            let ahead = Duration::from_secs(60 * u64::from(self.has(Fault::AnotherClock)));
            Ok(self.store.now().await?.plus(ahead))
        })
    }

    fn commit(&self, mut batch: Batch) -> BoxFuture<'_, Result<Vec<Outcome>>> {
        use onewrite_core::store::{From, Op};
        for op in batch.items.iter_mut().flat_map(|item| &mut item.ops) {
            match op {
                Op::Trim { limit, .. } if self.has(Fault::TrimsAll) => *limit = u32::MAX,
                Op::Subscribe { from, .. } if self.has(Fault::NoNow) => *from = From::Beginning,
                _ => {}
            }
        }
        match self.fault {
            Fault::Torn => Box::pin(self.torn(batch)),
            Fault::AllOrNothing => Box::pin(async move {
                let count = batch.items.len();
                let fence = batch.items.iter().find_map(|item| item.fence.clone());
                let ops = batch.items.drain(..).flat_map(|item| item.ops).collect();
                let whole = Batch { items: vec![Item { fence, ops }], ..batch };
                let mut outcomes = self.store.commit(whole).await?;
                outcomes.resize_with(count, || Outcome::Fenced);
                Ok(outcomes)
            }),
            _ => self.store.commit(batch),
        }
    }

    fn watch(&self) -> Box<dyn Watch> {
        if self.has(Fault::Deaf) { Box::new(Deaf) } else { self.store.watch() }
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Claimed>> {
        Box::pin(async {
            let mut claim = claim;
            if self.has(Fault::NoExpiry) {
                claim.ttl = Duration::from_secs(3600);
            }
            let scope = claim.scope.clone();
            let mut claimed = self.store.claim(claim).await?;
            if self.has(Fault::Shared) {
                let of_scope = |lease: LeaseState| {
                    let LeaseState { scope, partition, epoch, .. } = lease;
                    Fence { scope, partition, epoch }
                };
                let leases = self.store.leases().await?.into_iter();
                claimed.held = leases.filter(|one| one.scope == scope).map(of_scope).collect();
            }
            Ok(claimed)
        })
    }

    fn cursors<'a>(&'a self, sink: &'a str) -> BoxFuture<'a, Result<Vec<Cursor>>> {
        self.store.cursors(sink)
    }

    fn read(&self, mut read: Read) -> BoxFuture<'_, Result<Page>> {
        match self.fault {
            Fault::AnyKind => read.kinds.clear(),
            Fault::Endless => read.bytes_max = usize::MAX,
            _ => {}
        }
        Box::pin(async {
            let mut page = self.store.read(read).await?;
            page.more &= !self.has(Fault::NoMore);
            if self.has(Fault::StepsOver) {
                page.upto.iter_mut().for_each(|(_, upto)| *upto += 1);
            }
            Ok(page)
        })
    }

    fn id_at(&self, at: Partition, sequence: Sequence) -> BoxFuture<'_, Result<Option<Text>>> {
        self.store.id_at(at, sequence)
    }

    fn head(&self) -> BoxFuture<'_, Result<Sequence>> {
        self.store.head()
    }

    fn trimmed(&self) -> BoxFuture<'_, Result<Vec<(Partition, Sequence)>>> {
        self.store.trimmed()
    }

    fn sinks(&self) -> BoxFuture<'_, Result<Vec<SinkState>>> {
        self.store.sinks()
    }

    fn leases(&self) -> BoxFuture<'_, Result<Vec<LeaseState>>> {
        self.store.leases()
    }

    fn parked_keys<'a>(&'a self, scope: Option<&'a str>) -> BoxFuture<'a, Result<Vec<ParkedKey>>> {
        self.store.parked_keys(scope.filter(|_| !self.has(Fault::OneScope)))
    }

    fn parked_records<'a>(
        &'a self,
        key: &'a ParkedKey,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<ParkedRecord>>> {
        Box::pin(async move {
            let mut records = self.store.parked_records(key, limit).await?;
            if self.has(Fault::LastInFirstOut) {
                records.reverse();
            }
            Ok(records)
        })
    }

    fn guards(&self) -> BoxFuture<'_, Result<Vec<Text>>> {
        self.store.guards()
    }

    fn gaps(&self) -> BoxFuture<'_, Result<Vec<Gap>>> {
        self.store.gaps()
    }

    fn find(&self, find: Find) -> BoxFuture<'_, Result<Vec<Trace>>> {
        Box::pin(async {
            let mut traces = self.store.find(find).await?;
            traces.retain(|trace| {
                trace.whereabouts != Whereabouts::History || !self.has(Fault::NoStory)
            });
            Ok(traces)
        })
    }
}

struct Deaf;

impl Watch for Deaf {
    fn changed(&mut self, within: Duration) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(within))
    }
}

macro_rules! notices {
    ($($name:ident: $fault:ident, $module:ident::$case:ident, $complaint:literal;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let case = async { conformance::$module::$case(&Broken(Fault::$fault)).await };
            let complaint = conformance::complaint(case).await;
            assert!(complaint.contains($complaint), "for another reason: {complaint}");
        })*
    };
}

notices! {
    items_torn_apart: Torn, store::atomic, "atomic: a failed item left events";
    half_an_item_after_a_dropped_commit: Torn, store::cancel, "cancel: half of an item";
    one_failure_for_all: AllOrNothing, store::independent, "independent: ";
    two_owners: Shared, lease::one_owner, "one owner: another gets leases";
    leases_that_never_end: NoExpiry, lease::takeover, "did not happen";
    open_transactions_stepped_over: StepsOver, order::open_transaction, "commit order: ";
    a_reader_that_runs_ahead_of_writers: StepsOver, order::commit_order, "commit order: ";
    records_lost_between_pages: StepsOver, log::pages, "paging: ";
    an_early_end_of_the_log: NoMore, log::pages, "paging: ";
    kinds_nobody_asked_for: AnyKind, log::kinds, "kinds: ";
    pages_without_end: Endless, log::bytes_max, "bytes max: ";
    a_story_forgotten: NoStory, log::find, "find: after the trim";
    a_history_forgotten: NoStory, cursor::history, "history: ";
    another_clock: AnotherClock, store::own_clock, "own clock: ";
    a_trim_without_limit: TrimsAll, cursor::trim, "trim: at most so many";
    a_sink_that_starts_too_early: NoNow, cursor::subscribe, "subscribe: from now";
    parked_records_backwards: LastInFirstOut, parking::queue_order, "queue order: ";
    a_queue_from_the_back: LastInFirstOut, parking::unpark_front, "unpark: ";
    scopes_mixed_up: OneScope, parking::scopes, "scopes: ";
    nobody_is_woken: Deaf, store::watch, "watch: ";
}

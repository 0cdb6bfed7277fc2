//! H8, H9: several relays share the partitions, one stands still past its lease, one dies.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use onewrite_broker_local::MemorySink;
use onewrite_core::{
    BoxFuture, Delivery, Result,
    broker::{Receipt, Sink},
    sabotage::{Defect, Sabotage},
    store::Store as _,
};
use onewrite_engine::RelayOptions;
use onewrite_store_postgres::tokio_postgres::Client;
use onewrite_testkit::history::{Verdict, check};
use tokio::sync::Semaphore;

use crate::{
    conformance::{Place, connect},
    consumer::Consumer,
    rig::{
        LEASE, Running, SINK, Shared, broken, committed, emit_all, event, events, execute, place,
        place_with, relaying, settled, sound, until,
    },
};

const LOG: &str = "SELECT key, id FROM onewrite.log ORDER BY partition, sequence";

/// A slow service without an inbox: what it does first stays done. How long a request takes differs.
#[derive(Default)]
struct Slow(Mutex<Vec<(String, String)>>);

impl Slow {
    async fn take(&self, key: String, id: String) {
        let turn = id.bytes().map(u64::from).sum::<u64>();
        tokio::time::sleep(Duration::from_micros(turn * 7919 % 3000)).await;
        self.0.lock().unwrap().push((key, id));
    }
}

impl Sink for Slow {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        Box::pin(async move {
            for delivery in batch {
                let record = &delivery.record;
                self.take(record.event.order_key().to_string(), record.id().to_owned()).await;
            }
            Ok(vec![Receipt::Accepted; batch.len()])
        })
    }
}

/// Programs that each claim the next row that is free: the broken variant.
async fn claim_rows(url: String, slow: Shared<Slow>) {
    let client: Client = connect(&url).await;
    let claim = "UPDATE todo SET claimed = true WHERE sequence = (SELECT sequence FROM todo WHERE NOT claimed
        ORDER BY sequence LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING key, id";
    while let Some(row) = client.query_opt(claim, &[]).await.unwrap() {
        slow.0.take(row.get(0), row.get(1)).await;
    }
}

async fn share_the_work(by_relays: bool) -> Verdict {
    let place = place(8).await;
    let (store, client) = (place.store().await, place.connect().await);
    emit_all(&store, (0..200).map(|n| event(format!("k{}", n / 4), format!("e{n}")))).await;
    let slow = Shared::<Slow>::default();
    if by_relays {
        // Each has a handle of its own, as in a process of its own; small batches, so that they take turns.
        let options = || RelayOptions { batch_max: 4, ..relaying(SINK, sound()) };
        let mut relays = Vec::new();
        for owner in ["one", "two", "three"] {
            relays.push(Running::relay(&place.store().await, slow.clone(), options(), owner));
        }
        settled(&store, SINK).await;
        for relay in relays {
            relay.stop().await;
        }
    } else {
        execute(
            &client,
            "CREATE TABLE todo AS SELECT sequence, key, id, false AS claimed FROM onewrite.log",
        )
        .await;
        let worker = || claim_rows(place.url.clone(), slow.clone());
        tokio::join!(worker(), worker());
    }
    let effects = slow.0.0.lock().unwrap().clone();
    let committed = committed(&client, LOG).await;
    check(&committed, effects.iter().map(|(key, id)| (key.as_str(), id.as_str())))
}

#[tokio::test(flavor = "multi_thread")]
async fn several_relays_keep_the_order_of_each_key() {
    let verdict = share_the_work(true).await;
    assert_eq!((verdict.lost.count, verdict.out_of_order.count), (0, 0), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_claim_rows_overtake_one_another() {
    let verdict = share_the_work(false).await;
    assert!(verdict.out_of_order.count > 0, "nothing noticed the workers: {verdict}");
}

/// The way out of a relay that is stalled there, until somebody wakes it.
#[derive(Clone)]
struct Stalled {
    onward: MemorySink,
    reached: Arc<AtomicBool>,
    awake: Arc<Semaphore>,
}

impl Stalled {
    fn new(onward: MemorySink) -> Self {
        Self { onward, reached: Arc::default(), awake: Arc::new(Semaphore::new(0)) }
    }

    async fn reached(&self) {
        until("the relay's request", async || self.reached.load(Ordering::SeqCst)).await;
    }
}

impl Sink for Stalled {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        Box::pin(async move {
            self.reached.store(true, Ordering::SeqCst);
            // The whole relay stands still, as a paused process does: it cannot renew its lease either.
            let handle = tokio::runtime::Handle::current();
            let _awake =
                tokio::task::block_in_place(|| handle.block_on(self.awake.acquire())).unwrap();
            self.onward.publish(batch).await
        })
    }
}

struct After {
    verdict: Verdict,
    /// How far the log goes, and where the cursor stands.
    head: u64,
    cursor: u64,
    takeovers: u64,
}

async fn stall_past_the_lease(place: Place, inbox: Sabotage) -> After {
    let store = place.store().await;
    let consumer = Consumer::new().await;
    let (onward, receiver) = consumer.receive(inbox);
    emit_all(&store, events("a", 4, 2)).await;
    let stalled = Stalled::new(onward.clone());
    let first =
        Running::relay(&place.store().await, stalled.clone(), relaying(SINK, sound()), "first");
    stalled.reached().await;
    emit_all(&store, events("b", 6, 2)).await;
    // The second can begin only once the lease of the first has run out.
    let second = Running::relay(&store, onward, relaying(SINK, sound()), "second");
    settled(&store, SINK).await;
    first.begin_stop();
    stalled.awake.add_permits(100);
    first.stop().await;
    let head = store.head().await.unwrap();
    let cursor = store.cursors(SINK).await.unwrap()[0].sequence;
    let takeovers = store.leases().await.unwrap()[0].takeovers;
    second.stop().await;
    receiver.stop().await;
    let committed = committed(&place.connect().await, LOG).await;
    After { verdict: consumer.verdict(&committed).await, head, cursor, takeovers }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_wakes_after_its_lease_changes_nothing() {
    let after = stall_past_the_lease(place(1).await, sound()).await;
    assert_eq!(after.cursor, after.head, "a late write moved the cursor");
    assert!(after.verdict.is_clean(), "{}", after.verdict);
    assert_eq!(after.takeovers, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_fences_a_late_write_moves_the_cursor_back() {
    let after = stall_past_the_lease(place_with(1, broken(Defect::NoFence)).await, sound()).await;
    assert!(after.cursor < after.head, "nothing noticed the late write");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_deduplication_a_late_publish_takes_effect_twice() {
    let after = stall_past_the_lease(place(1).await, broken(Defect::NoDedup)).await;
    assert!(after.verdict.duplicated.count > 0, "nothing noticed: {}", after.verdict);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_relays_partitions_are_taken_over_within_the_lease() {
    let place = place(4).await;
    let store = place.store().await;
    let consumer = Consumer::new().await;
    let (onward, receiver) = consumer.receive_well();
    let first =
        Running::relay(&place.store().await, onward.clone(), relaying(SINK, sound()), "first");
    emit_all(&store, events("a", 8, 8)).await;
    settled(&store, SINK).await;
    let second = Running::relay(&store, onward, relaying(SINK, sound()), "second");
    let owned = async |owner: &str| {
        let leases = store.leases().await.unwrap();
        leases.iter().filter(|lease| lease.owner.as_deref() == Some(owner)).count()
    };
    until("both have their share", async || {
        owned("first").await == 2 && owned("second").await == 2
    })
    .await;
    first.crash().await;
    let died = Instant::now();
    emit_all(&store, events("b", 8, 8)).await;
    settled(&store, SINK).await;
    // It renews three times in a lease, so the dead one's may hold as long as the lease, and the taker looks
    // as often.
    let limit = LEASE * 2 + Duration::from_secs(2);
    assert!(died.elapsed() < limit, "it took {:?}", died.elapsed());
    assert_eq!(owned("second").await, 4);
    second.stop().await;
    receiver.stop().await;
    let verdict = consumer.verdict(&committed(&place.connect().await, LOG).await).await;
    assert!(verdict.is_clean(), "{verdict}");
}

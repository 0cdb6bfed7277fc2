//! H9: a relay is paused while it publishes; its lease runs out, another takes over, and the first
//! wakes and goes on.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use onewrite::{
    Delivery, MemorySink, Result,
    broker::{Receipt, Sink},
    sabotage::{Defect, Sabotage},
};
use onewrite_core::BoxFuture;
use onewrite_testkit::history::Verdict;
use tokio::sync::Semaphore;

use crate::rig::{Consumer, Running, SINK, Source, broken, events, queue, relaying, sound, until};

/// The way out of a relay that is stalled there, until somebody wakes it.
#[derive(Clone)]
struct Stalled {
    onward: MemorySink,
    reached: Arc<AtomicBool>,
    awake: Arc<Semaphore>,
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
}

async fn stall_past_the_lease(store: Sabotage, inbox: Sabotage) -> After {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::open(folder.path(), 1, store).await;
    let consumer = Consumer::open(folder.path()).await;
    let (onward, feed) = queue();
    let receiver = Running::receiver(consumer.inbox(inbox), feed);
    let (reached, awake) = (Arc::new(AtomicBool::new(false)), Arc::new(Semaphore::new(0)));
    source.place(events("a", 4, 2)).await;
    let stalled = Stalled {
        onward: onward.clone(),
        reached: Arc::clone(&reached),
        awake: Arc::clone(&awake),
    };
    let first = Running::relay(&source, stalled, relaying(SINK, sound()), "first");
    until("the first relay's request", async || reached.load(Ordering::SeqCst)).await;
    source.place(events("b", 6, 2)).await;
    // The second can begin only once the lease of the first has run out.
    let second = Running::relay(&source, onward, relaying(SINK, sound()), "second");
    source.settled(SINK).await;
    first.begin_stop();
    awake.add_permits(100);
    first.stop().await;
    let head = onewrite::Store::head(&source.0).await.unwrap();
    let cursor = source.cursor(SINK, 0).await.sequence;
    second.stop().await;
    receiver.stop().await;
    After { verdict: consumer.verdict(&source).await, head, cursor }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_wakes_after_its_lease_changes_nothing() {
    let after = stall_past_the_lease(sound(), sound()).await;
    assert_eq!(after.cursor, after.head, "a late write moved the cursor");
    assert!(after.verdict.is_clean(), "{}", after.verdict);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_fences_a_late_write_moves_the_cursor_back() {
    let after = stall_past_the_lease(broken(Defect::NoFence), sound()).await;
    assert!(after.cursor < after.head, "nothing noticed the late write");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_deduplication_a_late_publish_takes_effect_twice() {
    let after = stall_past_the_lease(sound(), broken(Defect::NoDedup)).await;
    assert!(after.verdict.duplicated.count > 0, "nothing noticed: {}", after.verdict);
}

/// A sink that takes its time, and does nothing else wrong.
struct Slow {
    onward: MemorySink,
    reached: Arc<AtomicBool>,
    go: Arc<Semaphore>,
}

impl Sink for Slow {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        Box::pin(async move {
            self.reached.store(true, Ordering::SeqCst);
            let _go = self.go.acquire().await.unwrap();
            self.onward.publish(batch).await
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_sink_does_not_cost_the_lease() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::open(folder.path(), 1, sound()).await;
    let consumer = Consumer::open(folder.path()).await;
    let (onward, feed) = queue();
    let receiver = Running::receiver(consumer.inbox(sound()), feed);
    let (reached, go) = (Arc::new(AtomicBool::new(false)), Arc::new(Semaphore::new(0)));
    source.place(events("a", 4, 2)).await;
    let slow = Slow { onward: onward.clone(), reached: Arc::clone(&reached), go: Arc::clone(&go) };
    let first = Running::relay(&source, slow, relaying(SINK, sound()), "first");
    until("the slow request", async || reached.load(Ordering::SeqCst)).await;
    let second = Running::relay(&source, onward, relaying(SINK, sound()), "second");
    let lease = async || onewrite::Store::leases(&source.0).await.unwrap().remove(0);
    let before = lease().await;
    // Renewed four times while the request is on its way: longer than the lease holds by itself.
    let mut until_then = before.expires_at;
    for _ in 0..4 {
        until("a renewal", async || lease().await.expires_at > until_then).await;
        until_then = lease().await.expires_at;
    }
    go.add_permits(100);
    source.settled(SINK).await;
    let after = lease().await;
    assert_eq!((after.epoch, after.takeovers), (before.epoch, before.takeovers));
    first.stop().await;
    second.stop().await;
    receiver.stop().await;
    assert!(consumer.verdict(&source).await.is_clean());
}

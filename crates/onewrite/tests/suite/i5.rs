//! I5: one slow or failing key holds up the others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use onewrite::{
    Delivery, MemorySink, Receiver, ReceiverOptions, RelayOptions, Result, Store,
    broker::{Receipt, Sink},
    inbox::{Inbox, Policy},
    store::Read,
};
use onewrite_core::BoxFuture;
use tokio::sync::Semaphore;

use crate::rig::{
    Consumer, PATIENCE, Running, SINK, Source, events, queue, relaying, sound, within,
};

const EVENTS: usize = 40;
const KEYS: usize = 10;

/// How long the controls wait for what must not come.
const SHORT: Duration = Duration::from_millis(400);

/// An inbox whose handler refuses key `k0` for ever; counts the refusals.
fn refusing(consumer: &Consumer) -> (Arc<dyn Inbox>, Arc<AtomicU32>) {
    let refusals = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&refusals);
    let policy = Policy { attempts_max: u32::MAX, ..Policy::new("payments") };
    let inbox = consumer.inbox_with(policy, move |context| {
        if context.event().order_key() != "k0" {
            return Ok(());
        }
        count.fetch_add(1, Ordering::SeqCst);
        Err("not today".into())
    });
    (inbox, refusals)
}

/// The ids of the effects whose keys live in another partition than `k0`, and how many there must be.
async fn others(source: &Source, consumer: &Consumer) -> (usize, usize) {
    let of = |key: &str| onewrite::position::partition_of(key, source.0.source().partitions);
    let other = |key: &str| of(key) != of("k0");
    let wanted = (0..EVENTS).filter(|n| other(&format!("k{}", n % KEYS))).count();
    let found = consumer.effects().await.iter().filter(|(key, _)| other(key)).count();
    (found, wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_key_holds_up_its_own_partition_only() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::open(folder.path(), 8, sound()).await;
    let consumer = Consumer::open(folder.path()).await;
    let (inbox, refusals) = refusing(&consumer);
    source.place(events("e", EVENTS, KEYS)).await;
    let (sink, feed) = queue();
    let receiver = Running::receiver(inbox, feed);
    let options = RelayOptions { attempts_max: u32::MAX, ..relaying(SINK, sound()) };
    let relay = Running::relay(&source, sink, options, "one");
    let done = async || {
        let (found, wanted) = others(&source, &consumer).await;
        found == wanted && refusals.load(Ordering::SeqCst) > 3
    };
    assert!(within(PATIENCE, done).await, "{:?}", others(&source, &consumer).await);
    assert!(!consumer.effects().await.iter().any(|(key, _)| key == "k0"));
    relay.stop().await;
    receiver.stop().await;
}

/// The broken variant: a publisher with one queue for all, which tries its head until it is taken.
#[tokio::test(flavor = "multi_thread")]
async fn one_queue_for_all_keys_stops_at_the_failing_one() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::open(folder.path(), 8, sound()).await;
    let consumer = Consumer::open(folder.path()).await;
    let (inbox, refusals) = refusing(&consumer);
    source.place(events("e", EVENTS, KEYS)).await;
    let receiver = Receiver::new(inbox, ReceiverOptions::default());
    let after = (0..8).map(|partition| (partition, 0)).collect();
    let read = Read { after, limit: EVENTS, bytes_max: 1 << 20, kinds: Vec::new() };
    let order = onewrite::record::Order::ById;
    'log: for record in source.0.read(read).await.unwrap().records {
        while !receiver.receive(vec![Delivery { record: record.clone(), order }]).await.unwrap()[0]
            .is_settled()
        {
            if refusals.load(Ordering::SeqCst) > 3 {
                break 'log;
            }
        }
    }
    let (found, wanted) = others(&source, &consumer).await;
    assert!(found < wanted, "nothing noticed: {found} of {wanted}");
}

/// A sink that takes nothing before it is told to.
#[derive(Clone)]
struct Slow(Arc<Semaphore>);

impl Sink for Slow {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        Box::pin(async move {
            let _turn = self.0.acquire().await.unwrap();
            Ok(vec![Receipt::Accepted; batch.len()])
        })
    }
}

/// The broken variant: one relay that serves both sinks in turn.
struct Both(Slow, MemorySink);

impl Sink for Both {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        Box::pin(async move {
            self.0.publish(batch).await?;
            self.1.publish(batch).await
        })
    }
}

/// Two sinks, one of which is slow: says whether the other gets everything meanwhile.
async fn beside_a_slow_sink(one_relay_for_both: bool, limit: Duration) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::open(folder.path(), 8, sound()).await;
    let consumer = Consumer::open(folder.path()).await;
    source.place(events("e", EVENTS, KEYS)).await;
    let (fast, feed) = queue();
    let slow = Slow(Arc::new(Semaphore::new(0)));
    let receiver = Running::receiver(consumer.inbox(sound()), feed);
    let relay = |sink: Arc<dyn Sink>, name: &'static str| {
        Running::relay(&source, Shared(sink), relaying(name, sound()), name)
    };
    let relays = if one_relay_for_both {
        vec![relay(Arc::new(Both(slow.clone(), fast)), "both")]
    } else {
        vec![relay(Arc::new(slow.clone()), "slow"), relay(Arc::new(fast), "fast")]
    };
    let in_time = within(limit, async || consumer.effects().await.len() == EVENTS).await;
    for relay in relays {
        relay.crash().await;
    }
    receiver.stop().await;
    in_time
}

struct Shared(Arc<dyn Sink>);

impl Sink for Shared {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        self.0.publish(batch)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_sink_holds_up_no_other_sink() {
    assert!(beside_a_slow_sink(false, PATIENCE).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_relay_for_two_sinks_waits_for_the_slow_one() {
    assert!(!beside_a_slow_sink(true, SHORT).await, "nothing noticed");
}

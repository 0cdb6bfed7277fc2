//! Redis keeps everything in memory: what goes out of it, what stays, and what happens when it is full.

use std::time::Duration;

use onewrite_core::{
    Code,
    broker::{Receipt, Sink as _},
    store::Store as _,
};

use crate::rig::{
    Consumer, Orders, Shop, Stream as _, ask, assert_clean, client, reading, sink, until,
};

/// A group in every lane.
async fn make_groups(shop: &Shop, consumer: &'static str) {
    let reading = reading(consumer, shop.consumer.store(), consumer);
    Orders::feed(&shop.broker.url(), reading).await.closer().close().await;
}

/// Leaves the server room for so many bytes more.
async fn leave_room(shop: &Shop, bytes: u64) {
    let info: String = ask(&shop.broker.server, "INFO memory").await;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    let max = used.parse::<u64>().unwrap() + bytes;
    ask::<()>(&shop.broker.server, &format!("CONFIG SET maxmemory {max}")).await;
}

/// H13: a server whose memory is full refuses with its cure; nothing is parked, nothing is lost, and
/// delivery goes on by itself once there is room.
#[tokio::test(flavor = "multi_thread")]
async fn full_memory_refuses_and_loses_nothing() {
    let mut shop = Shop::new().await;
    make_groups(&shop, "payments").await;
    let publisher = sink(&format!("{}&window=50", shop.broker.url())).await;
    shop.source.place(2_000, 10).await;
    let deliveries = shop.source.deliveries().await;
    leave_room(&shop, 400_000).await;
    // What fits is taken; then the trouble is said.
    let (mut left, mut blocked) = (deliveries, false);
    let error = loop {
        assert!(!left.is_empty(), "everything fits");
        match publisher.publish(&left).await {
            Ok(receipts) => {
                blocked |= receipts.contains(&Receipt::Blocked);
                let mut receipts = receipts.into_iter();
                left.retain(|_| !receipts.next().is_some_and(|receipt| receipt.is_settled()));
            }
            Err(error) => break error,
        }
    };
    assert!(blocked, "what does not fit was refused beside what did");
    assert_eq!(error.code(), Code::SinkRefused, "{error}");
    for part in ["memory is full", "CONFIG SET maxmemory", "XGROUP DESTROY"] {
        assert!(error.context().contains(part), "{error}");
    }
    let relay = shop.source.relay(publisher);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!shop.source.is_settled().await, "the relay waits");
    ask::<()>(&shop.broker.server, "CONFIG SET maxmemory 0").await;
    let receiver = shop.consumer.receive(shop.feed().await);
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    assert!(shop.source.store.parked_keys(None).await.unwrap().is_empty(), "nothing is parked");
    relay.stop().await;
    receiver.stop().await;
}

/// A server that is full again and again lets everything through in order: its receiver reads on and makes
/// room, and what was refused is not overtaken.
#[tokio::test(flavor = "multi_thread")]
async fn a_narrow_server_lets_everything_through() {
    let mut shop = Shop::new().await;
    make_groups(&shop, "payments").await;
    let relay = shop.source.relay(sink(&format!("{}&window=32", shop.broker.url())).await);
    shop.source.place(200, 20).await;
    until("the end of the log", async || shop.source.is_settled().await).await;
    // Connections take of it as well.
    leave_room(&shop, 1_500_000).await;
    shop.source.place(12_000, 20).await;
    let refused = async || {
        let sinks = shop.source.store.sinks().await.unwrap();
        let info: String = ask(&shop.broker.server, "INFO stats").await;
        let errors = info.lines().find_map(|line| line.strip_prefix("total_error_replies:"));
        sinks.iter().any(|sink| sink.behind > 0) && errors.is_some_and(|count| count != "0")
    };
    until("full memory", refused).await;
    let receiver = shop.consumer.receive(shop.feed().await);
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    assert!(shop.source.store.parked_keys(None).await.unwrap().is_empty(), "nothing is parked");
    relay.stop().await;
    receiver.stop().await;
}

/// What every group has acknowledged goes; what one has not stays, however far the others are.
#[tokio::test(flavor = "multi_thread")]
async fn what_every_group_has_acknowledged_goes() {
    let mut shop = Shop::new().await;
    make_groups(&shop, "payments").await;
    make_groups(&shop, "stock").await;
    let relay = shop.source.relay(sink(&shop.broker.url()).await);
    let receiver = shop.consumer.receive(shop.feed().await);
    shop.source.place(1_000, 40).await;
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    // More than one look of the readers later.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(shop.broker.stored().await, 1_000, "the other group has read nothing");
    for lane in 0..8 {
        ask::<u64>(
            &shop.broker.server,
            &format!("XGROUP DESTROY {}:{lane} stock", shop.broker.name),
        )
        .await;
    }
    // Each lane keeps its last.
    until("trimming", async || {
        shop.source.place(40, 40).await;
        shop.broker.stored().await < 200
    })
    .await;
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    relay.stop().await;
    receiver.stop().await;
}

/// A partition that is not taken keeps its entries, and with them what came later in its lane.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_never_removed() {
    let mut shop = Shop::new().await;
    let url = format!("{}&lanes=1", shop.broker.url());
    let publisher = sink(&url).await;
    shop.source.place(100, 10).await;
    let mut deliveries = shop.source.deliveries().await;
    // The first of its partition never comes.
    let waiting = deliveries.remove(0).record.partition;
    publisher.publish(&deliveries).await.unwrap();
    let receiver = shop.consumer.receive(shop.feed().await);
    until("the others", async || shop.consumer.effects().await.len() >= 70).await;
    let held = deliveries.iter().filter(|one| one.record.partition == waiting).count();
    until("acknowledging the others", async || pending(&shop).await == held).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(shop.broker.stored().await >= held as u64);
    assert_eq!(pending(&shop).await, held);
    receiver.stop().await;
}

/// Entries of the first lane that are read and not acknowledged.
async fn pending(shop: &Shop) -> usize {
    let mut asked = redis::cmd("XPENDING");
    asked.arg(format!("{}:0", shop.broker.name)).arg("payments");
    let said: redis::streams::StreamPendingReply =
        asked.query_async(&mut client(&shop.broker.server).await).await.unwrap();
    said.count()
}

/// A lane brings no more than the receiver may hold.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_lane_brings_nothing_more() {
    let mut shop = Shop::new().await;
    let url = format!("{}&lanes=1&pending_max=50", shop.broker.url());
    let publisher = sink(&url).await;
    shop.source.place(300, 10).await;
    publisher.publish(&shop.source.deliveries().await).await.unwrap();
    let mut feed = shop.feed_at(&url).await;
    until("holding as many as allowed", async || pending(&shop).await == 50).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(pending(&shop).await, 50, "and no more");
    // One is settled, and another comes.
    let mut arrival = onewrite_core::broker::Feed::next(&mut feed).await.unwrap();
    let count = arrival.take().len();
    arrival.settle(vec![Receipt::Accepted; count]).await.unwrap();
    let more = async || shop.broker.stored().await < 300 || pending(&shop).await == 50;
    until("reading on", more).await;
}

/// A receiver that comes when the others have long acknowledged everything gets it from the log.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_later_gets_what_was_removed() {
    let mut shop = Shop::new().await;
    let relay = shop.source.relay(sink(&shop.broker.url()).await);
    let receiver = shop.consumer.receive(shop.feed().await);
    shop.source.place(300, 10).await;
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    until("trimming", async || shop.broker.stored().await <= 8).await;
    let folder = tempfile::tempdir().unwrap();
    let other = Consumer::open(folder.path()).await;
    let reading = reading("later", other.store(), "later");
    let later = other.receive(Orders::feed(&shop.broker.url(), reading).await);
    // One for each key, so that each partition has something to miss its predecessor.
    shop.source.place(10, 10).await;
    assert_clean(&other.all_of(&shop.source).await);
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    for running in [relay, receiver, later] {
        running.stop().await;
    }
}

//! What is read and not answered for, by processes that stall or take their time.

use std::time::{Duration, Instant};

use onewrite_broker_redis::{RedisFeed, RedisFeedOptions};
use onewrite_core::broker::{Feed as _, Sink as _};

use crate::rig::{PATIENCE, Shop, Stream as _, ask, client, reading, sink, until, within};

async fn feed(shop: &Shop, url: &str, ack_wait: Duration) -> RedisFeed {
    let reading = reading("payments", shop.consumer.store(), "one");
    let options = RedisFeedOptions::from_url(url, reading).unwrap();
    RedisFeed::open(RedisFeedOptions { ack_wait, ..options }).await.unwrap()
}

/// An entry goes to a process that stalled, lost the lane and does not know yet: it answers for nothing.
/// Says whether the event takes effect within `limit` all the same.
async fn recovers(ack_wait: Duration, limit: Duration) -> bool {
    let shop = Shop::new().await;
    let receiver = shop.consumer.receive(feed(&shop, &shop.broker.url(), ack_wait).await);
    let blocked = async || {
        ask::<String>(&shop.broker.server, "INFO clients").await.contains("blocked_clients:8")
    };
    until("reading of all lanes", blocked).await;
    let lane = format!("{}:0", shop.broker.name);
    let mut stolen = redis::pipe();
    // In one transaction, so that the reader who waits for it comes second.
    let event = ["specversion", "1.0", "id", "f1", "type", "T", "source", "elsewhere"];
    stolen.atomic().cmd("XADD").arg(&lane).arg("*").arg(&event);
    stolen.cmd("XREADGROUP").arg(&["GROUP", "payments", "payments", "STREAMS", &lane, ">"]);
    let (_, read): (String, Vec<redis::Value>) =
        stolen.query_async(&mut client(&shop.broker.server).await).await.unwrap();
    assert_eq!(read.len(), 1, "it was read by another");
    let recovered = within(limit, async || !shop.consumer.effects().await.is_empty()).await;
    receiver.stop().await;
    recovered
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stalled_process_read_comes_again() {
    assert!(recovers(Duration::from_millis(300), PATIENCE).await);
}

/// The control: it is the `ack_wait` that brings it.
#[tokio::test(flavor = "multi_thread")]
async fn before_the_ack_wait_it_does_not() {
    assert!(!recovers(Duration::from_secs(60), Duration::from_secs(2)).await);
}

/// What is held for long is not taken for left behind: it is read once.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_does_not_come_again() {
    let mut shop = Shop::new().await;
    let url = format!("{}&lanes=1", shop.broker.url());
    let publisher = sink(&url).await;
    shop.source.place(20, 5).await;
    publisher.publish(&shop.source.deliveries().await).await.unwrap();
    let ack_wait = Duration::from_millis(400);
    let mut feed = feed(&shop, &url, ack_wait).await;
    let arrival = feed.next().await.unwrap();
    let began = Instant::now();
    while began.elapsed() < 5 * ack_wait {
        let pending = format!("XPENDING {}:0 payments - + 100", shop.broker.name);
        let held: Vec<(String, String, u64, u64)> = ask(&shop.broker.server, &pending).await;
        assert_eq!(held.len(), 20);
        assert!(held.iter().all(|(.., delivered)| *delivered == 1), "{held:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(arrival);
}

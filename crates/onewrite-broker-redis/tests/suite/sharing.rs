//! The lanes of a stream are shared by the processes of a receiver.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use onewrite_broker_redis::{RedisFeed, RedisFeedOptions};
use onewrite_core::{
    Text,
    broker::{Feed as _, Sink as _},
    store::Store,
};

use crate::rig::{
    Consumer, PATIENCE, Shop, ask, assert_clean, client, lanes_of, reading, sink, until, within,
};

/// What is given back, or was held by one that died, must not need the `ack_wait`.
async fn feed(shop: &Shop, owner: &str) -> RedisFeed {
    let options = reading(&shop.url(), shop.consumer.store(), owner);
    let options = RedisFeedOptions { ack_wait: Duration::from_secs(60), ..options };
    RedisFeed::open(options).await.unwrap()
}

async fn shared_by(store: &Arc<dyn Store>, wanted: &[(&'static str, usize)]) {
    let wanted: Vec<(Option<Text>, usize)> =
        wanted.iter().map(|(owner, count)| (Some(Text::from_static(owner)), *count)).collect();
    let found = async || lanes_of(store).await == wanted;
    until(&format!("sharing as {wanted:?}"), found).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_go_to_who_joins_and_come_back() {
    let mut shop = Shop::new().await;
    let store = shop.consumer.store();
    let relay = shop.source.relay(sink(&shop.url()).await);
    let one = feed(&shop, "one").await;
    shared_by(&store, &[("one", 8)]).await;
    let one_closer = one.closer();
    let first = shop.consumer.receive(one);
    shop.source.place(500, 40).await;
    let two = feed(&shop, "two").await;
    let two_closer = two.closer();
    let second = shop.consumer.receive(two);
    for _ in 0..20 {
        shop.source.place(25, 40).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    shared_by(&store, &[("one", 4), ("two", 4)]).await;
    shop.source.place(500, 40).await;
    two_closer.close().await;
    second.stop().await;
    shared_by(&store, &[("one", 8)]).await;
    shop.source.place(100, 40).await;
    let began = Instant::now();
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    assert!(began.elapsed() < Duration::from_secs(10), "redelivery: {:?}", began.elapsed());
    one_closer.close().await;
    assert_eq!(lanes_of(&store).await, [(None, 8)], "given back");
    first.stop().await;
    relay.stop().await;
}

/// Names the URL of the stream to the process that is killed.
const DOOMED_URL: &str = "ONEWRITE_TEST_DOOMED_URL";
/// And the folder of its database.
const DOOMED_FOLDER: &str = "ONEWRITE_TEST_DOOMED_FOLDER";

/// A receiver is killed with entries in its hands; what it held comes to the next one at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_is_taken_over() {
    if let Ok(url) = std::env::var(DOOMED_URL) {
        return be_doomed(&url).await;
    }
    let mut shop = Shop::new().await;
    let relay = shop.source.relay(sink(&shop.url()).await);
    let mut doomed = Command::new(std::env::current_exe().unwrap())
        .args(["sharing::a_killed_process_is_taken_over", "--exact", "--nocapture"])
        .env(DOOMED_URL, shop.url())
        .env(DOOMED_FOLDER, shop.folder())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    shop.source.place(3_000, 40).await;
    until("some effects", async || shop.consumer.effects().await.len() > 100).await;
    doomed.kill().unwrap();
    doomed.wait().unwrap();
    let before = shop.consumer.effects().await.len();
    assert!(before < 3_000, "killed in the middle of it");
    let receiver = shop.consumer.receive(feed(&shop, "living").await);
    let began = Instant::now();
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    assert!(began.elapsed() < Duration::from_secs(20), "redelivery: {:?}", began.elapsed());
    receiver.stop().await;
    relay.stop().await;
}

async fn be_doomed(url: &str) {
    let folder = std::env::var(DOOMED_FOLDER).unwrap();
    let consumer = Consumer::open(Path::new(&folder)).await;
    let feed = RedisFeed::open(reading(url, consumer.store(), "doomed")).await.unwrap();
    let _receiver = consumer.receive(feed);
    // The parent sees to its end; should it be gone, so is the reason to live.
    tokio::time::sleep(2 * PATIENCE).await;
}

/// An entry goes to a process that stalled, lost the lane and does not know yet: it answers for nothing.
/// Says whether the event takes effect within `limit` all the same.
async fn recovers(ack_wait: Duration, limit: Duration) -> bool {
    let shop = Shop::new().await;
    let options = reading(&shop.url(), shop.consumer.store(), "one");
    let options = RedisFeedOptions { ack_wait, ..options };
    let receiver = shop.consumer.receive(RedisFeed::open(options).await.unwrap());
    let blocked =
        async || ask::<String>(&shop.server, "INFO clients").await.contains("blocked_clients:8");
    until("reading of all lanes", blocked).await;
    let lane = format!("{}:0", shop.stream);
    let mut stolen = redis::pipe();
    // In one transaction, so that the reader who waits for it comes second.
    let event = ["specversion", "1.0", "id", "f1", "type", "T", "source", "elsewhere"];
    stolen.atomic().cmd("XADD").arg(&lane).arg("*").arg(&event);
    stolen.cmd("XREADGROUP").arg(&["GROUP", "payments", "payments", "STREAMS", &lane, ">"]);
    let (_, read): (String, Vec<redis::Value>) =
        stolen.query_async(&mut client(&shop.server).await).await.unwrap();
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
    let url = format!("{}&lanes=1", shop.url());
    let publisher = sink(&url).await;
    shop.source.place(20, 5).await;
    publisher.publish(&shop.source.deliveries().await).await.unwrap();
    let ack_wait = Duration::from_millis(400);
    let options = reading(&url, shop.consumer.store(), "one");
    let mut feed = RedisFeed::open(RedisFeedOptions { ack_wait, ..options }).await.unwrap();
    let arrival = feed.next().await.unwrap();
    let began = Instant::now();
    while began.elapsed() < 5 * ack_wait {
        let pending = format!("XPENDING {}:0 payments - + 100", shop.stream);
        let held: Vec<(String, String, u64, u64)> = ask(&shop.server, &pending).await;
        assert_eq!(held.len(), 20);
        assert!(held.iter().all(|(.., delivered)| *delivered == 1), "{held:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(arrival);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_feed_gives_back() {
    let shop = Shop::new().await;
    let store = shop.consumer.store();
    let feed = feed(&shop, "one").await;
    shared_by(&store, &[("one", 8)]).await;
    drop(feed);
    until("giving back", async || lanes_of(&store).await == [(None, 8)]).await;
}

/// Receivers of the same stream do not take anything from one another.
#[tokio::test(flavor = "multi_thread")]
async fn each_receiver_gets_everything() {
    let mut shop = Shop::new().await;
    let folder = tempfile::tempdir().unwrap();
    let other = Consumer::open(folder.path()).await;
    let options = reading(&shop.url(), other.store(), "other");
    let options = RedisFeedOptions { consumer: "stock".into(), ..options };
    let theirs = other.receive(RedisFeed::open(options).await.unwrap());
    let ours = shop.consumer.receive(shop.feed().await);
    let relay = shop.source.relay(sink(&shop.url()).await);
    shop.source.place(500, 40).await;
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    assert_clean(&other.all_of(&shop.source).await);
    for running in [theirs, ours, relay] {
        running.stop().await;
    }
}

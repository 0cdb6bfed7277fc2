//! The lanes of a stream are shared by the processes of a receiver, and its group is told what is done.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use onewrite_broker_kafka::KafkaFeed;
use onewrite_core::{
    Text,
    broker::{Feed as _, Receipt, Sink as _},
    store::Store,
};

use crate::rig::{
    Consumer, PATIENCE, Shop, assert_clean, delivery, lanes_of, reading, server, sink, until,
    within,
};

async fn feed(shop: &Shop, owner: &str) -> KafkaFeed {
    KafkaFeed::open(reading(&shop.url(), shop.consumer.store(), owner)).await.unwrap()
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
    let told: i64 = shop.committed().await.into_iter().flatten().sum();
    assert_eq!(told, i64::try_from(shop.stored().await.len()).unwrap(), "the group was told all");
    first.stop().await;
    relay.stop().await;
}

/// Names the URL of the stream to the process that is killed.
const DOOMED_URL: &str = "ONEWRITE_TEST_DOOMED_URL";
/// And the folder of its database.
const DOOMED_FOLDER: &str = "ONEWRITE_TEST_DOOMED_FOLDER";

/// A receiver is killed with messages in its hands; what it held comes to the next one at once.
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
    println!("{before} effects before the kill");
    shop.source.place(500, 40).await;
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
    let feed = KafkaFeed::open(reading(url, consumer.store(), "doomed")).await.unwrap();
    let _receiver = consumer.receive(feed);
    // The parent sees to its end; should it be gone, so is the reason to live.
    tokio::time::sleep(2 * PATIENCE).await;
}

/// I6: settles everything but the first of a lane, and says how far the group is told in time.
async fn settle_all_but(first: Receipt) -> Option<i64> {
    let shop = Shop::on(server().await, 1).await;
    let publisher = sink(&shop.url()).await;
    // Partitions of their own: one that waits does not hold back the others.
    let batch: Vec<_> = (0..10).map(|partition| delivery(partition, 1)).collect();
    publisher.publish(&batch).await.unwrap();
    let options = reading(&shop.url(), shop.consumer.store(), "one");
    let mut feed = KafkaFeed::open(options).await.unwrap();
    let mut settled = 0;
    while settled < batch.len() {
        let mut arrival = feed.next().await.unwrap();
        let judge = |partition| if partition == 0 { first.clone() } else { Receipt::Accepted };
        let receipts: Vec<Receipt> =
            arrival.take().iter().map(|one| judge(one.record.partition)).collect();
        settled += receipts.len();
        arrival.settle(receipts).await.unwrap();
    }
    let told = async || shop.committed().await[0].is_some_and(|told| told > 0);
    within(Duration::from_secs(2), told).await;
    shop.committed().await[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_not_told_past_what_is_held() {
    let told = settle_all_but(Receipt::Retry("busy".into())).await;
    assert!(told.is_none_or(|told| told == 0), "{told:?}");
}

/// The control: it is the one that is held.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_told_of_all_that_is_done() {
    assert_eq!(settle_all_but(Receipt::Accepted).await, Some(10));
}

/// I7: a process loses its lanes and goes on as if it had them; its database does not let it.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_goes_back_takes_no_effect_twice() {
    let mut shop = Shop::new().await;
    shop.source.place(200, 20).await;
    sink(&shop.url()).await.publish(&shop.source.deliveries().await).await.unwrap();
    let first = feed(&shop, "one").await;
    let closer = first.closer();
    let receiver = shop.consumer.receive(first);
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    closer.close().await;
    receiver.stop().await;
    // As late commits of a process that lost its lanes leave it.
    crate::rig::commit(&shop.server, &shop.stream, 0).await;
    let second = feed(&shop, "two").await;
    let receiver = shop.consumer.receive(second);
    until("reading to the end", async || {
        shop.committed().await.into_iter().flatten().sum::<i64>() == 200
    })
    .await;
    assert_clean(&shop.consumer.verdict(&shop.source).await);
    receiver.stop().await;
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

/// Receivers of the same topic do not take anything from one another.
#[tokio::test(flavor = "multi_thread")]
async fn each_receiver_gets_everything() {
    let mut shop = Shop::new().await;
    let folder = tempfile::tempdir().unwrap();
    let other = Consumer::open(folder.path()).await;
    let mut options = reading(&shop.url(), other.store(), "other");
    options.reading.consumer = "stock".into();
    let theirs = other.receive(KafkaFeed::open(options).await.unwrap());
    let ours = shop.consumer.receive(shop.feed().await);
    let relay = shop.source.relay(sink(&shop.url()).await);
    shop.source.place(500, 40).await;
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    assert_clean(&other.all_of(&shop.source).await);
    for running in [theirs, ours, relay] {
        running.stop().await;
    }
}

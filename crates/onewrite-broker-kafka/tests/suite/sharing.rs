//! The group of a receiver is told what is done, and nothing else.

use std::time::Duration;

use onewrite_broker_kafka::KafkaFeed;
use onewrite_core::broker::{Feed as _, Receipt, Sink as _};

use crate::rig::{
    Orders, Shop, Stream as _, assert_clean, delivery, reading, server, sink, until, within,
};

async fn feed(shop: &Shop, owner: &str) -> KafkaFeed {
    Orders::feed(&shop.broker.url(), reading("payments", shop.consumer.store(), owner)).await
}

/// I6: settles everything but the first of a lane, and says how far the group is told in time.
async fn settle_all_but(first: Receipt) -> Option<i64> {
    let shop = Shop::on(Orders::on(server().await, 1).await).await;
    let publisher = sink(&shop.broker.url()).await;
    // Partitions of their own: one that waits does not hold back the others.
    let batch: Vec<_> = (0..10).map(|partition| delivery(partition, 1)).collect();
    publisher.publish(&batch).await.unwrap();
    let mut feed = feed(&shop, "one").await;
    let mut settled = 0;
    while settled < batch.len() {
        let mut arrival = feed.next().await.unwrap();
        let judge = |partition| if partition == 0 { first.clone() } else { Receipt::Accepted };
        let receipts: Vec<Receipt> =
            arrival.take().iter().map(|one| judge(one.record.partition)).collect();
        settled += receipts.len();
        arrival.settle(receipts).await.unwrap();
    }
    let told = async || shop.broker.committed().await[0].is_some_and(|told| told > 0);
    within(Duration::from_secs(2), told).await;
    shop.broker.committed().await[0]
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
    sink(&shop.broker.url()).await.publish(&shop.source.deliveries().await).await.unwrap();
    let first = feed(&shop, "one").await;
    let closer = first.closer();
    let receiver = shop.consumer.receive(first);
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    closer.close().await;
    let told: i64 = shop.broker.committed().await.into_iter().flatten().sum();
    assert_eq!(told, 200, "who leaves tells the group all");
    receiver.stop().await;
    // As late commits of a process that lost its lanes leave it.
    crate::rig::commit(&shop.broker.server, &shop.broker.name, 0).await;
    let second = feed(&shop, "two").await;
    let receiver = shop.consumer.receive(second);
    until("reading to the end", async || {
        shop.broker.committed().await.into_iter().flatten().sum::<i64>() == 200
    })
    .await;
    assert_clean(&shop.consumer.verdict(&shop.source).await);
    receiver.stop().await;
}

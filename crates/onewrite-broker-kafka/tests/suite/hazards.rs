//! What brokers do to those who trust them: lost answers, lost messages, reordering, servers that go away.
//!
//! A relay, the topic and a receiver with its inbox work as they do in production; what took effect is
//! compared with what was committed.

use std::time::Duration;

use onewrite_core::{
    Code,
    broker::{Receipt, Sink as _},
    sabotage::{Defect, Sabotage},
};
use onewrite_testkit::{history::Verdict, server::Kafka};

use crate::rig::{Orders, Shop, Stream as _, assert_clean, own_server, sink, until};

onewrite_testkit::stream_suite!(Orders);
onewrite_testkit::takeover_suite!(Orders, Duration::from_secs(28));

/// A shop on a server of its own, that waits shortly for answers.
async fn shop_to_disturb() -> (Kafka, Shop, String) {
    let server = own_server().await;
    let shop = Shop::on(Orders::on(server.address().clone(), 8).await).await;
    let url = shop.broker.url().replace("timeout=3", "timeout=400ms");
    (server, shop, url)
}

/// I12 (a): the server stores what it does not answer for in time. It takes effect, is sent again, and is
/// stored twice; says what took effect in the end.
async fn lose_an_answer(sabotage: Sabotage) -> Verdict {
    let (server, mut shop, url) = shop_to_disturb().await;
    shop.source.place(20, 1).await;
    let deliveries = shop.source.deliveries().await;
    let sink = sink(&url).await;
    // Connected, with nothing left to ask.
    until("a first record", async || sink.publish(&deliveries[..1]).await.is_ok()).await;
    let receiver = shop.consumer.receive_with(shop.feed().await, sabotage);
    until("an effect", async || shop.consumer.effects().await.len() == 1).await;
    server.address().command("rtt 3000").await.unwrap();
    let error = sink.publish(&deliveries[1..2]).await.unwrap_err();
    assert_eq!(error.code(), Code::SinkUnreachable, "{error}");
    server.address().command("rtt 0").await.unwrap();
    until("the effect of what was not confirmed", async || shop.consumer.effects().await.len() > 1)
        .await;
    until("settling", async || {
        let receipts = sink.publish(&deliveries[1..]).await;
        receipts.is_ok_and(|all| all.iter().all(Receipt::is_settled))
    })
    .await;
    let stored = i64::try_from(shop.broker.stored().await.len()).unwrap();
    until("reading to the end", async || {
        shop.broker.committed().await.into_iter().flatten().sum::<i64>() == stored
    })
    .await;
    let verdict = shop.consumer.verdict(&shop.source).await;
    receiver.stop().await;
    verdict
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_does_not_double() {
    assert_clean(&lose_an_answer(Sabotage::default()).await);
}

/// The control: it is the inbox that knows what it has.
#[tokio::test(flavor = "multi_thread")]
async fn without_an_inbox_a_lost_answer_doubles() {
    let forgetful = Sabotage::default().with(Defect::NoDedup).with(Defect::NoChain);
    let verdict = lose_an_answer(forgetful).await;
    assert!(verdict.duplicated.count > 0, "the checker notices: {verdict}");
}

/// Requests of every kind fail or end the connection, again and again, from the source to the effect.
#[tokio::test(flavor = "multi_thread")]
async fn failing_requests_lose_and_double_nothing() {
    let (server, mut shop, url) = shop_to_disturb().await;
    let relay = shop.source.relay(sink(&url).await);
    let receiver = shop.consumer.receive(shop.feed_at(&url).await);
    // Ended connections; too few replicas; a number out of its order, which ends a producer; a group that
    // has moved to another server.
    let faults = [
        "produce 3 -195",
        "fetch 3 -195",
        "produce 5 19",
        "produce 1 45",
        "commit 4 16",
        "commit 2 -195",
    ];
    for round in 0..12 {
        shop.source.place(40, 10).await;
        server.address().command(&format!("fail {}", faults[round % faults.len()])).await.unwrap();
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    relay.stop().await;
    receiver.stop().await;
}

/// The server goes away and comes back in the middle of traffic.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_loses_and_doubles_nothing() {
    let (server, mut shop, url) = shop_to_disturb().await;
    let relay = shop.source.relay(sink(&url).await);
    let receiver = shop.consumer.receive(shop.feed_at(&url).await);
    for round in 0..3_u64 {
        for _ in 0..5 {
            shop.source.place(30, 10).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        server.address().command("down").await.unwrap();
        shop.source.place(30, 10).await;
        tokio::time::sleep(Duration::from_millis(100 + 500 * round)).await;
        server.address().command("up").await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    relay.stop().await;
    receiver.stop().await;
}

/// A relay that lost its lease wakes up and publishes what its successor has published long since.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_publish_takes_no_effect() {
    let mut shop = Shop::new().await;
    shop.source.place(30, 1).await;
    let deliveries = shop.source.deliveries().await;
    let (first, second) = (sink(&shop.broker.url()).await, sink(&shop.broker.url()).await);
    second.publish(&deliveries).await.unwrap();
    first.publish(&deliveries[5..20]).await.unwrap();
    assert_eq!(shop.broker.stored().await.len(), 45);
    let receiver = shop.consumer.receive(shop.feed().await);
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    until("reading to the end", async || {
        shop.broker.committed().await.into_iter().flatten().sum::<i64>() == 45
    })
    .await;
    assert_clean(&shop.consumer.verdict(&shop.source).await);
    receiver.stop().await;
}

/// A batch that the server finds too large is refused as a whole: each of its messages is tried alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_too_large_is_sent_in_pieces() {
    let server = own_server().await;
    let mut shop = Shop::on(Orders::on(server.address().clone(), 1).await).await;
    shop.source.place(30, 5).await;
    let deliveries = shop.source.deliveries().await;
    let sink = sink(&shop.broker.url()).await;
    server.address().command("fail produce 1 10").await.unwrap();
    let receipts = sink.publish(&deliveries).await.unwrap();
    assert!(receipts.iter().all(Receipt::is_settled), "{receipts:?}");
    // The control: what is refused alone is too large itself.
    server.address().command("fail produce 2 10").await.unwrap();
    let receipts = sink.publish(&deliveries[..1]).await.unwrap();
    assert!(
        matches!(&receipts[..], [Receipt::Refused(why)] if why.contains("max.message.bytes")),
        "{receipts:?}"
    );
}

/// A group that stands behind the end of the topic, which was made anew or cut off, begins where it begins.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_ahead_begins_anew() {
    let mut shop = Shop::new().await;
    shop.source.place(50, 10).await;
    sink(&shop.broker.url()).await.publish(&shop.source.deliveries().await).await.unwrap();
    crate::rig::commit(&shop.broker.server, &shop.broker.name, 1_000).await;
    let receiver = shop.consumer.receive(shop.feed().await);
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    receiver.stop().await;
}

/// What is no event is passed over, and the group with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_passes_over_what_is_no_event() {
    let shop = Shop::on(Orders::on(crate::rig::server().await, 1).await).await;
    let receiver = shop.consumer.receive(shop.feed().await);
    shop.broker.foreign().await;
    let done = async || shop.broker.committed().await == [Some(3)];
    until("the group's passing over what is no event", done).await;
    assert_eq!(shop.consumer.effects().await.len(), 1);
    receiver.stop().await;
}

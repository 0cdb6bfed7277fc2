//! What brokers do to those who trust them, and RabbitMQ in particular.

use std::time::Duration;

use lapin::{
    options::{ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions},
    types::FieldTable,
};
use onewrite_core::{
    Code,
    broker::{Receipt, Sink as _},
    store::Store as _,
};
use onewrite_testkit::streams::{Shop, Stream as _, assert_clean};

use crate::rig::{Orders, ready_in, sink, until};

onewrite_testkit::stream_suite!(Orders);
onewrite_testkit::proxy_suite!(Orders);
onewrite_testkit::crash_suite!(Orders);
onewrite_testkit::takeover_suite!(Orders, Duration::from_secs(28));

/// A stream whose sink makes no queues.
fn unrouted(shop: &Shop<Orders>) -> String {
    shop.broker.url().replace("&consumers=payments", "")
}

/// A message that no queue takes is confirmed by the server, and lost. It is no success here: it waits
/// until somebody receives it.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_queue_takes_waits_for_a_receiver() {
    let mut shop = Shop::<Orders>::new().await;
    shop.source.place(200, 20).await;
    let publisher = sink(&unrouted(&shop)).await;
    let deliveries = shop.source.deliveries().await;
    let error = publisher.publish(&deliveries).await.unwrap_err();
    assert_eq!(error.code(), Code::SinkRefused, "{error}");
    for part in ["no queue takes", "consumers=", "goes on by itself"] {
        assert!(error.context().contains(part), "{error}");
    }
    let relay = shop.source.relay(publisher);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!shop.source.is_settled().await, "the relay waits");
    let receiver = shop.consumer.receive(shop.feed_at(&unrouted(&shop)).await);
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    assert!(shop.source.store.parked_keys(None).await.unwrap().is_empty(), "nothing is parked");
    relay.stop().await;
    receiver.stop().await;
}

/// What is routed and what is not come back mixed: each record gets the answer that is its own.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_no_queue_takes_is_taken_back() {
    let mut shop = Shop::<Orders>::new().await;
    shop.source.place(400, 40).await;
    let publisher = sink(&shop.broker.url()).await;
    let channel = shop.broker.channel().await;
    let queue = format!("{}.payments.3", shop.broker.name);
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    let deliveries = shop.source.deliveries().await;
    let receipts = publisher.publish(&deliveries).await.unwrap();
    let lanes = deliveries.iter().map(|delivery| delivery.record.partition % 8);
    let lost = lanes.clone().filter(|lane| *lane == 3).count();
    assert!(lost > 0 && lost < 400, "{lost} of the lane whose queue is gone");
    for (lane, receipt) in lanes.zip(receipts) {
        let expected = if lane == 3 { Receipt::Blocked } else { Receipt::Accepted };
        assert_eq!(receipt, expected, "lane {lane}");
    }
    assert_eq!(stored_beside(&shop, 3).await as usize, 400 - lost);
}

async fn stored_beside(shop: &Shop<Orders>, gone: u16) -> u32 {
    let channel = shop.broker.channel().await;
    let mut stored = 0;
    for lane in (0..8).filter(|lane| *lane != gone) {
        stored += ready_in(&channel, &format!("{}.payments.{lane}", shop.broker.name)).await;
    }
    stored
}

/// Queues that are purged, and deleted under their reader's hands: what was in them is sent again.
#[tokio::test(flavor = "multi_thread")]
async fn purged_and_deleted_queues_are_made_good() {
    let mut shop = Shop::<Orders>::new().await;
    let relay = shop.source.relay(shop.sink().await);
    shop.source.place(200, 20).await;
    until("the end of the log", async || shop.source.is_settled().await).await;
    let channel = shop.broker.channel().await;
    for lane in 0..8 {
        let queue = format!("{}.payments.{lane}", shop.broker.name);
        channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await.unwrap();
    }
    shop.source.place(40, 20).await;
    let receiver = shop.consumer.receive(shop.feed().await);
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    for lane in 0..8 {
        let queue = format!("{}.payments.{lane}", shop.broker.name);
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
        shop.source.place(40, 20).await;
    }
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    relay.stop().await;
    receiver.stop().await;
}

/// H13: a queue that refuses at its limit: nothing is parked, nothing is lost, and everything passes
/// through it in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_narrow_queue_lets_everything_through() {
    let mut shop = Shop::on(Orders::alone_with("").await).await;
    let policy = r#"{"max-length":5,"overflow":"reject-publish"}"#;
    let words = ["set_policy", "narrow", "payments", policy, "--apply-to", "queues"];
    let publisher = sink(&format!("{}&window=10", shop.broker.url())).await;
    shop.broker.server().ctl(&words).await.unwrap();
    shop.source.place(4_000, 20).await;
    let deliveries = shop.source.deliveries().await;
    let mut left = deliveries.clone();
    let error = loop {
        assert!(!left.is_empty(), "everything fits");
        match publisher.publish(&left).await {
            Ok(receipts) => {
                let mut receipts = receipts.into_iter();
                left.retain(|_| !receipts.next().is_some_and(|receipt| receipt.is_settled()));
            }
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), Code::SinkRefused, "{error}");
    assert!(error.context().contains("list_policies"), "{error}");
    let relay = shop.source.relay(publisher);
    let receiver = shop.consumer.receive(shop.feed().await);
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    shop.source.place(1_000, 20).await;
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    assert!(shop.source.store.parked_keys(None).await.unwrap().is_empty(), "nothing is parked");
    relay.stop().await;
    receiver.stop().await;
}

/// A server short of disk lets nobody publish: publishers hear why, receivers go on and make room.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_short_of_disk_is_waited_for() {
    let mut shop = Shop::on(Orders::alone_with("").await).await;
    let publisher = shop.sink().await;
    shop.source.place(100, 20).await;
    let deliveries = shop.source.deliveries().await;
    assert!(publisher.publish(&deliveries[..50]).await.unwrap().iter().all(Receipt::is_settled));
    shop.broker.server().ctl(&["set_disk_free_limit", "900000GB"]).await.unwrap();
    let mut said = String::new();
    until("hearing of it", async || {
        said = match publisher.publish(&deliveries[50..]).await {
            Err(error) => error.to_string(),
            Ok(_) => String::new(),
        };
        said.contains("short of memory or disk")
    })
    .await;
    assert!(said.contains("rabbitmq-diagnostics alarms"), "{said}");
    // Who consumes is not held up by those who publish.
    let receiver = shop.consumer.receive(shop.feed().await);
    let half = async || shop.consumer.effects().await.len() >= 50;
    until("receiving what is there", half).await;
    let relay = shop.source.relay(publisher);
    shop.broker.server().ctl(&["set_disk_free_limit", "50MB"]).await.unwrap();
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    relay.stop().await;
    receiver.stop().await;
}

/// A record too large for the server is refused by its size, before the server ends the channel for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_too_large_is_refused_alone() {
    let mut shop = Shop::on(Orders::alone_with("max_message_size = 100000\n").await).await;
    shop.source.place(2, 2).await;
    let mut deliveries = shop.source.deliveries().await;
    deliveries[0].record.event.data = vec![b'7'; 100_001].into();
    let told = sink(&format!("{}&message_bytes_max=100000", shop.broker.url())).await;
    let receipts = told.publish(&deliveries).await.unwrap();
    assert!(
        matches!(&receipts[..], [Receipt::Refused(why), Receipt::Accepted] if why.contains("OW0005")),
        "{receipts:?}"
    );
    // Who is not told hears what to do.
    let error = shop.sink().await.publish(&deliveries[..1]).await.unwrap_err();
    assert!(error.context().contains("`message_bytes_max`"), "{error}");
}

/// The exchange is deleted: the sink's trouble, and named.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_exchange_is_named() {
    let mut shop = Shop::<Orders>::new().await;
    shop.source.place(3, 3).await;
    let publisher = shop.sink().await;
    let channel = shop.broker.channel().await;
    let exchange = shop.broker.name.as_str().into();
    channel.exchange_delete(exchange, ExchangeDeleteOptions::default()).await.unwrap();
    let deliveries = shop.source.deliveries().await;
    let error = publisher.publish(&deliveries).await.unwrap_err();
    assert!(error.context().contains("was deleted"), "{error}");
    let receipts = shop.sink().await.publish(&deliveries).await.unwrap();
    assert!(receipts.iter().all(Receipt::is_settled), "{receipts:?}");
}

/// A lane brings no more messages than the receiver may hold, until some are settled.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_lane_brings_nothing_more() {
    let mut shop = Shop::<Orders>::new().await;
    let url = format!("{}&lanes=1&pending_max=50", shop.broker.url());
    shop.source.place(300, 10).await;
    sink(&url).await.publish(&shop.source.deliveries().await).await.unwrap();
    let options = onewrite_testkit::streams::reading("payments", shop.consumer.store(), "one");
    let options = onewrite_broker_rabbitmq::Reading { pending_max: 50, ..options };
    let mut feed = Orders::feed(&url, options).await;
    let (channel, queue) =
        (shop.broker.channel().await, format!("{}.payments.0", shop.broker.name));
    until("holding as many as allowed", async || ready_in(&channel, &queue).await == 250).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(ready_in(&channel, &queue).await, 250, "and no more");
    let mut arrival = onewrite_core::broker::Feed::next(&mut feed).await.unwrap();
    let count = arrival.take().len();
    arrival.settle(vec![Receipt::Accepted; count]).await.unwrap();
    until("reading on", async || ready_in(&channel, &queue).await < 250).await;
}

/// Two processes of a receiver never read the same queue at once, whatever they believe.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_has_one_active_consumer() {
    let shop = Shop::<Orders>::new().await;
    let _feed = shop.feed().await;
    let channel = shop.broker.channel().await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), lapin::types::AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let queue = format!("{}.payments.0", shop.broker.name);
    let refused = channel.queue_declare(queue.into(), durable, arguments).await.unwrap_err();
    assert!(refused.to_string().contains("x-single-active-consumer"), "{refused}");
}

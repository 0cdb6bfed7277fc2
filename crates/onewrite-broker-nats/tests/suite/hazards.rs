//! What brokers do to those who trust them: lost answers, lost messages, reordering, full disks, crashes.
//!
//! A relay, the stream and a receiver with its inbox work as they do in production; what took effect is
//! compared with what was committed.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy};
use onewrite_core::{
    Code,
    broker::{Receipt, Sink as _},
    store::Store as _,
};
use onewrite_testkit::proxy::{Fault, Proxy};

use crate::rig::{Orders, Shop, Stream as _, assert_clean, client, sink, until};

onewrite_testkit::stream_suite!(Orders);
onewrite_testkit::proxy_suite!(Orders);
onewrite_testkit::crash_suite!(Orders);
onewrite_testkit::takeover_suite!(Orders, Duration::from_secs(28));

/// I12 (a): a publish whose answer is lost is sent again, and the server recognises it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_unheard_is_recognised() {
    let mut shop = Shop::new().await;
    shop.source.place(20, 5).await;
    let deliveries = shop.source.deliveries().await;
    let proxy = Proxy::start(shop.broker.address()).await.unwrap();
    let sink = sink(&shop.broker.url_at(proxy.addr())).await;
    proxy.set(Fault::DropReplies);
    let error = sink.publish(&deliveries[..1]).await.unwrap_err();
    assert_eq!(error.code(), Code::SinkUnreachable, "{error}");
    until("the server's storing", async || shop.broker.stored().await == 1).await;
    proxy.set(Fault::Pass);
    let mut receipts = Err(error);
    until("the answer", async || {
        receipts = sink.publish(&deliveries).await;
        receipts.is_ok()
    })
    .await;
    let receipts = receipts.unwrap();
    assert_eq!(receipts[0], Receipt::Duplicate);
    assert!(receipts.iter().all(Receipt::is_settled), "{receipts:?}");
    assert_eq!(shop.broker.stored().await, 20);
}

/// H13, and a full stream: it refuses with its cure; nothing is parked, nothing is lost, and delivery goes
/// on by itself once there is room.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_refuses_and_loses_nothing() {
    let mut shop = Shop::new().await;
    let publisher = sink(&format!("{}&max_bytes=100000", shop.broker.url())).await;
    shop.source.place(400, 10).await;
    let deliveries = shop.source.deliveries().await;
    // What fits is taken; then the trouble is said.
    let receipts = publisher.publish(&deliveries).await.unwrap();
    assert!(receipts.iter().any(Receipt::is_settled) && receipts.contains(&Receipt::Blocked));
    let settled = receipts.iter().filter(|receipt| receipt.is_settled()).count();
    let error = publisher.publish(&deliveries[settled + 10..]).await.unwrap_err();
    assert_eq!(error.code(), Code::SinkRefused, "{error}");
    for part in ["is full", "--max-bytes"] {
        assert!(error.context().contains(part), "{error}");
    }
    let relay = shop.source.relay(publisher);
    let receiver = shop.consumer.receive(shop.feed().await);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!shop.source.is_settled().await, "the relay waits");
    let context = client(shop.broker.address()).await;
    let mut config =
        context.get_stream(&shop.broker.name).await.unwrap().cached_info().config.clone();
    config.max_bytes = -1;
    context.update_stream(config).await.unwrap();
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    assert!(shop.source.store.parked_keys(None).await.unwrap().is_empty(), "nothing is parked");
    relay.stop().await;
    receiver.stop().await;
}

/// A small stream that forgets what was received (one receiver, retention `workqueue`) is full again and
/// again, and everything passes through it in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_narrow_stream_lets_everything_through() {
    let mut shop = Shop::new().await;
    let config = Config {
        name: shop.broker.name.clone(),
        subjects: vec![format!("{}.>", shop.broker.name)],
        description: Some("onewrite lanes=8".into()),
        retention: RetentionPolicy::WorkQueue,
        discard: DiscardPolicy::New,
        // Not bytes: at those, servers before 2.10.5 drop what they have.
        max_messages: 90,
        ..Config::default()
    };
    client(shop.broker.address()).await.create_stream(config).await.unwrap();
    // At most 32 are on their way when it gets full.
    let relay = shop.source.relay(sink(&format!("{}&window=32", shop.broker.url())).await);
    shop.source.place(200, 20).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let receiver = shop.consumer.receive(shop.feed().await);
    shop.source.place(2_000, 20).await;
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    assert!(shop.source.store.parked_keys(None).await.unwrap().is_empty(), "nothing is parked");
    relay.stop().await;
    receiver.stop().await;
}

/// A record that is too large for the server is refused: it alone is parked, and the others flow.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_too_large_for_the_server_is_refused() {
    let mut shop = Shop::new().await;
    shop.source.place(1, 1).await;
    let mut deliveries = shop.source.deliveries().await;
    // The data fits, the headers do not any more.
    deliveries[0].record.event.data = vec![b'7'; 1024 * 1024 - 100].into();
    let receipts = sink(&shop.broker.url()).await.publish(&deliveries).await.unwrap();
    assert!(
        matches!(&receipts[..], [Receipt::Refused(why)] if why.contains("OW0005")),
        "{receipts:?}"
    );
}

/// A stream that was deleted is the sink's trouble, and is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_stream_is_named() {
    let mut shop = Shop::new().await;
    shop.source.place(3, 3).await;
    let publisher = sink(&shop.broker.url()).await;
    client(shop.broker.address()).await.delete_stream(&shop.broker.name).await.unwrap();
    let error = publisher.publish(&shop.source.deliveries().await).await.unwrap_err();
    assert_eq!(error.code(), Code::SinkRefused);
    assert!(error.context().contains("deleted"), "{error}");
    // Created again, with everything gone, the receiver asks for what it misses.
    let relay = shop.source.relay(sink(&shop.broker.url()).await);
    until("the end of the log", async || shop.source.is_settled().await).await;
    client(shop.broker.address())
        .await
        .get_stream(&shop.broker.name)
        .await
        .unwrap()
        .purge()
        .await
        .unwrap();
    shop.source.place(9, 3).await;
    let receiver = shop.consumer.receive(shop.feed().await);
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    relay.stop().await;
    receiver.stop().await;
}

/// What is no event is passed over, and stays in the stream.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_messages_do_not_vanish() {
    let shop = Shop::new().await;
    let receiver = shop.consumer.receive(shop.feed().await);
    shop.broker.foreign().await;
    until("the foreign event", async || !shop.consumer.effects().await.is_empty()).await;
    assert_eq!(shop.broker.stored().await, 3, "what is no event is still there");
    receiver.stop().await;
}

//! What brokers do to those who trust them: lost answers, lost entries, reordering, crashes.
//!
//! A relay, the stream and a receiver with its inbox work as they do in production; what took effect is
//! compared with what was committed.

use std::time::Duration;

use onewrite_core::{
    Code,
    broker::{Receipt, Sink as _},
};
use onewrite_testkit::{
    proxy::{Fault, Proxy},
    server::Redis,
};

use crate::rig::{Orders, Shop, Stream as _, ask, assert_clean, server_with, sink, until};

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
    let first = sink.publish(&deliveries[..1]).await.expect("it connects again by itself");
    assert_eq!(first, [Receipt::Duplicate]);
    let rest = sink.publish(&deliveries[1..]).await.unwrap();
    assert!(rest.iter().all(|receipt| *receipt == Receipt::Accepted), "{rest:?}");
    assert_eq!(shop.broker.stored().await, 20);
}

/// The server itself ends its clients' connections.
#[tokio::test(flavor = "multi_thread")]
async fn killed_connections_lose_and_double_nothing() {
    let mut shop = Shop::new().await;
    let relay = shop.source.relay(sink(&shop.broker.url()).await);
    let receiver = shop.consumer.receive(shop.feed().await);
    let mut killed = 0;
    while killed < 20 {
        shop.source.place(50, 10).await;
        for kind in ["normal", "pubsub"] {
            killed += ask::<u64>(&shop.broker.server, &format!("CLIENT KILL TYPE {kind}")).await;
        }
    }
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    relay.stop().await;
    receiver.stop().await;
}

/// A server that keeps snapshots only, as it comes from its package.
async fn snapshots_only() -> Redis {
    server_with(&["--appendonly", "no"]).await
}

/// I10: the server restarts with what it had at its last snapshot, or a replica that lagged takes over. The
/// next record finds its predecessor missing there, and its relay goes back, without anybody receiving.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_went_back_in_time_is_sent_what_it_lost() {
    let mut shop = Shop::on(Orders::on(snapshots_only().await)).await;
    let relay = shop.source.relay(sink(&shop.broker.url()).await);
    shop.source.place(100, 10).await;
    until("the end of the log", async || shop.source.is_settled().await).await;
    assert_eq!(ask::<String>(&shop.broker.server, "SAVE").await, "OK");
    shop.source.place(100, 10).await;
    until("the end of the log", async || shop.source.is_settled().await).await;
    shop.broker.server.restart().await.unwrap();
    assert_eq!(shop.broker.stored().await, 100, "the others are lost");
    // One for each key: each partition has something behind what is lost.
    shop.source.place(10, 10).await;
    until("sending again", async || shop.broker.stored().await == 210).await;
    let receiver = shop.consumer.receive(shop.feed().await);
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    relay.stop().await;
    receiver.stop().await;
}

/// The control: it is what was appended last that tells, and without it the loss is not seen there.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_remember_takes_what_has_no_predecessor() {
    let mut shop = Shop::on(Orders::on(snapshots_only().await)).await;
    shop.source.place(3, 1).await;
    let deliveries = shop.source.deliveries().await;
    let sink = sink(&shop.broker.url()).await;
    sink.publish(&deliveries[..1]).await.unwrap();
    let have = deliveries[0].record.sequence;
    let last = std::slice::from_ref(&deliveries[2]);
    assert_eq!(sink.publish(last).await.unwrap(), [Receipt::Gap { have }]);
    let lane = deliveries[0].record.partition % 8;
    let forgotten: u64 =
        ask(&shop.broker.server, &format!("DEL {{{}:{lane}}}:last", shop.broker.name)).await;
    assert_eq!((forgotten, sink.publish(last).await.unwrap()), (1, vec![Receipt::Accepted]));
}

/// Everything is gone, what was appended last as well: its receivers miss it.
#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_stream_is_sent_again() {
    let mut shop = Shop::new().await;
    let relay = shop.source.relay(sink(&format!("{}&lanes=4", shop.broker.url())).await);
    let receiver = shop.consumer.receive(shop.feed().await);
    shop.source.place(100, 10).await;
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    receiver.stop().await;
    shop.source.place(100, 10).await;
    until("the end of the log", async || shop.source.is_settled().await).await;
    ask::<()>(&shop.broker.server, "FLUSHALL").await;
    shop.source.place(10, 10).await;
    until("the stream's being made anew", async || {
        ask::<Option<u16>>(&shop.broker.server, &format!("HGET {} lanes", shop.broker.name)).await
            == Some(4)
    })
    .await;
    let receiver = shop.consumer.receive(shop.feed().await);
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    // Under its reader's hands.
    ask::<()>(&shop.broker.server, "FLUSHALL").await;
    shop.source.place(100, 10).await;
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    relay.stop().await;
    receiver.stop().await;
}

/// A relay that lost its lease wakes up and publishes what its successor has published long since.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_publish_appends_nothing() {
    let mut shop = Shop::new().await;
    shop.source.place(30, 1).await;
    let deliveries = shop.source.deliveries().await;
    let (first, second) = (sink(&shop.broker.url()).await, sink(&shop.broker.url()).await);
    second.publish(&deliveries).await.unwrap();
    let late = first.publish(&deliveries[5..20]).await.unwrap();
    assert_eq!(late, vec![Receipt::Duplicate; 15]);
    assert_eq!(shop.broker.stored().await, 30);
}

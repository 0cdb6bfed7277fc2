//! What brokers do to those who trust them: lost answers, lost entries, reordering, crashes.
//!
//! A relay, the stream and a receiver with its inbox work as they do in production; what took effect is
//! compared with what was committed.

use std::time::Duration;

use futures::StreamExt as _;
use onewrite_broker_redis::{Announcement, gap_channel};
use onewrite_core::{
    Code, Delivery,
    broker::{Receipt, Sink as _},
    cloudevents,
    record::Order,
    sabotage::{Defect, Sabotage},
    store::Store as _,
};
use onewrite_testkit::{
    history::Verdict,
    proxy::{Fault, Proxy},
    server::Redis,
};

use crate::rig::{
    PATIENCE, Shop, ask, assert_clean, client, event, server_with, sink, until, url, within,
};

/// I12 (a): a publish whose answer is lost is sent again, and the server recognises it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_does_not_double() {
    let mut shop = Shop::new().await;
    shop.source.place(20, 5).await;
    let deliveries = shop.source.deliveries().await;
    let proxy = Proxy::start(shop.address()).await.unwrap();
    let sink = sink(&url(proxy.addr(), &shop.stream)).await;
    proxy.set(Fault::DropReplies);
    let error = sink.publish(&deliveries[..1]).await.unwrap_err();
    assert_eq!(error.code(), Code::SinkUnreachable, "{error}");
    until("the server's storing", async || shop.stored().await == 1).await;
    proxy.set(Fault::Pass);
    let first = sink.publish(&deliveries[..1]).await.expect("it connects again by itself");
    assert_eq!(first, [Receipt::Duplicate]);
    let rest = sink.publish(&deliveries[1..]).await.unwrap();
    assert!(rest.iter().all(|receipt| *receipt == Receipt::Accepted), "{rest:?}");
    assert_eq!(shop.stored().await, 20);
}

/// The same on both sides at once, again and again, from the source to the effect.
#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_lose_and_double_nothing() {
    let mut shop = Shop::new().await;
    let proxy = Proxy::start(shop.address()).await.unwrap();
    let through = url(proxy.addr(), &shop.stream);
    let relay = shop.source.relay(sink(&through).await);
    let receiver = shop.consumer.receive(shop.feed_at(&through).await);
    for round in 0..12_u64 {
        shop.source.place(40, 10).await;
        tokio::time::sleep(Duration::from_millis(20 + 10 * (round % 4))).await;
        let faults = [
            Fault::DropReplies,
            Fault::Cut { after_bytes: 20_000 },
            Fault::Refuse,
            Fault::Blackhole,
        ];
        proxy.set(faults[usize::try_from(round % 4).unwrap()]);
        tokio::time::sleep(Duration::from_millis(60)).await;
        // What was swallowed by the black hole would pass afterwards: it is cut first.
        proxy.set(Fault::Refuse);
        tokio::time::sleep(Duration::from_millis(10)).await;
        proxy.set(Fault::Pass);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    assert!(proxy.connections() > 8, "{} connections", proxy.connections());
    relay.stop().await;
    receiver.stop().await;
}

/// The server itself ends its clients' connections.
#[tokio::test(flavor = "multi_thread")]
async fn killed_connections_lose_and_double_nothing() {
    let mut shop = Shop::new().await;
    let relay = shop.source.relay(sink(&shop.url()).await);
    let receiver = shop.consumer.receive(shop.feed().await);
    let mut killed = 0;
    for _ in 0..8 {
        shop.source.place(100, 10).await;
        for kind in ["normal", "pubsub"] {
            killed += ask::<u64>(&shop.server, &format!("CLIENT KILL TYPE {kind}")).await;
        }
    }
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    assert!(killed > 8, "{killed} connections were killed");
    relay.stop().await;
    receiver.stop().await;
}

/// Loses one entry after the server answered for it, and says what came of it within `patience`; also
/// what was announced.
async fn lose_one(sabotage: Sabotage, patience: Duration) -> (Verdict, Vec<Announcement>) {
    let mut shop = Shop::new().await;
    shop.source.place(200, 10).await;
    let relay = shop.source.relay(sink(&shop.url()).await);
    until("the end of the log", async || shop.source.is_settled().await).await;
    let listener = redis::Client::open(shop.server.url()).unwrap();
    let mut listener = listener.get_async_pubsub().await.unwrap();
    listener.subscribe(gap_channel(&shop.stream)).await.unwrap();
    delete_one(&shop).await;
    let receiver = shop.consumer.receive_with(shop.feed().await, sabotage);
    let all = async || shop.consumer.effects().await.len() >= 200;
    within(patience, all).await;
    let mut messages = listener.on_message();
    let mut said = Vec::new();
    while let Ok(Some(message)) =
        tokio::time::timeout(Duration::from_millis(10), messages.next()).await
    {
        said.push(serde_json::from_slice(message.get_payload_bytes()).unwrap());
    }
    let verdict = shop.consumer.verdict(&shop.source).await;
    relay.stop().await;
    receiver.stop().await;
    (verdict, said)
}

/// Deletes an entry that has a successor in its partition.
async fn delete_one(shop: &Shop) {
    for lane in 0..8 {
        let key = format!("{}:{lane}", shop.stream);
        let entries: Vec<(String, Vec<String>)> =
            ask(&shop.server, &format!("XRANGE {key} - + COUNT 1")).await;
        if let [(id, _)] = &entries[..] {
            assert_eq!(ask::<u64>(&shop.server, &format!("XDEL {key} {id}")).await, 1);
            return;
        }
    }
    panic!("there is nothing to delete");
}

/// I12 (b): what the server lost after it answered is missed, announced, and sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_entry_is_noticed_and_sent_again() {
    let (verdict, announced) = lose_one(Sabotage::default(), PATIENCE).await;
    assert_clean(&verdict);
    assert!(!announced.is_empty(), "nobody had to ask for it");
    assert!(announced.iter().all(|said| said.source == "shop"), "{announced:?}");
}

/// The control: without the chain of predecessors nobody misses it.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_chain_a_loss_goes_unnoticed() {
    let blind = Sabotage::default().with(Defect::NoChain);
    let (verdict, announced) = lose_one(blind, Duration::from_secs(4)).await;
    assert_eq!(verdict.lost.count, 1, "the checker notices: {verdict}");
    assert!(announced.is_empty());
}

/// A server that keeps snapshots only, as it comes from its package.
async fn snapshots_only() -> Redis {
    server_with(&["--appendonly", "no"]).await
}

/// I10: the server restarts with what it had at its last snapshot, or a replica that lagged takes over. The
/// next record finds its predecessor missing there, and its relay goes back, without anybody receiving.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_went_back_in_time_is_sent_what_it_lost() {
    let mut shop = Shop::on(snapshots_only().await).await;
    let relay = shop.source.relay(sink(&shop.url()).await);
    shop.source.place(100, 10).await;
    until("the end of the log", async || shop.source.is_settled().await).await;
    assert_eq!(ask::<String>(&shop.server, "SAVE").await, "OK");
    shop.source.place(100, 10).await;
    until("the end of the log", async || shop.source.is_settled().await).await;
    shop.server.restart().await.unwrap();
    assert_eq!(shop.stored().await, 100, "the others are lost");
    // One for each key: each partition has something behind what is lost.
    shop.source.place(10, 10).await;
    until("sending again", async || shop.stored().await == 210).await;
    let receiver = shop.consumer.receive(shop.feed().await);
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    relay.stop().await;
    receiver.stop().await;
}

/// The control: it is what was appended last that tells, and without it the loss is not seen there.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_remember_takes_what_has_no_predecessor() {
    let mut shop = Shop::on(snapshots_only().await).await;
    shop.source.place(3, 1).await;
    let deliveries = shop.source.deliveries().await;
    let sink = sink(&shop.url()).await;
    sink.publish(&deliveries[..1]).await.unwrap();
    let have = deliveries[0].record.sequence;
    let last = std::slice::from_ref(&deliveries[2]);
    assert_eq!(sink.publish(last).await.unwrap(), [Receipt::Gap { have }]);
    let lane = deliveries[0].record.partition % 8;
    let forgotten: u64 = ask(&shop.server, &format!("DEL {{{}:{lane}}}:last", shop.stream)).await;
    assert_eq!((forgotten, sink.publish(last).await.unwrap()), (1, vec![Receipt::Accepted]));
}

/// Everything is gone, what was appended last as well: its receivers miss it.
#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_stream_is_sent_again() {
    let mut shop = Shop::new().await;
    let relay = shop.source.relay(sink(&format!("{}&lanes=4", shop.url())).await);
    let receiver = shop.consumer.receive(shop.feed().await);
    shop.source.place(100, 10).await;
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    receiver.stop().await;
    shop.source.place(100, 10).await;
    until("the end of the log", async || shop.source.is_settled().await).await;
    ask::<()>(&shop.server, "FLUSHALL").await;
    shop.source.place(10, 10).await;
    until("the stream's being made anew", async || {
        ask::<Option<u16>>(&shop.server, &format!("HGET {} lanes", shop.stream)).await == Some(4)
    })
    .await;
    let receiver = shop.consumer.receive(shop.feed().await);
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    // Under its reader's hands.
    ask::<()>(&shop.server, "FLUSHALL").await;
    shop.source.place(100, 10).await;
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    relay.stop().await;
    receiver.stop().await;
}

/// Appends a delivery beside the script, as a mirror or an operator might.
async fn append(shop: &Shop, delivery: &Delivery) {
    let key = format!("{}:{}", shop.stream, delivery.record.partition % 8);
    let mut add = redis::cmd("XADD");
    add.arg(key).arg("*").arg("data").arg(&delivery.record.event.data[..]);
    for (name, value) in cloudevents::encode_attributes(delivery) {
        add.arg(name).arg(value);
    }
    add.exec_async(&mut client(&shop.server).await).await.unwrap();
}

/// I12 (c): what comes before its predecessor waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn reordering_is_put_right() {
    let mut shop = Shop::new().await;
    shop.source.place(30, 1).await;
    let deliveries = shop.source.deliveries().await;
    for late in deliveries[1..].iter().rev() {
        append(&shop, late).await;
    }
    let receiver = shop.consumer.receive(shop.feed().await);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(shop.consumer.effects().await.is_empty(), "nothing goes before the first");
    append(&shop, &deliveries[0]).await;
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    receiver.stop().await;
}

/// A relay that lost its lease wakes up and publishes what its successor has published long since.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_publish_appends_nothing() {
    let mut shop = Shop::new().await;
    shop.source.place(30, 1).await;
    let deliveries = shop.source.deliveries().await;
    let (first, second) = (sink(&shop.url()).await, sink(&shop.url()).await);
    second.publish(&deliveries).await.unwrap();
    let late = first.publish(&deliveries[5..20]).await.unwrap();
    assert_eq!(late, vec![Receipt::Duplicate; 15]);
    assert_eq!(shop.stored().await, 30);
}

/// The server dies and comes back in the middle of traffic.
#[tokio::test(flavor = "multi_thread")]
async fn killed_servers_lose_and_double_nothing() {
    let mut shop = Shop::new().await;
    let relay = shop.source.relay(sink(&shop.url()).await);
    let receiver = shop.consumer.receive(shop.feed().await);
    for round in 0..4_u64 {
        for _ in 0..5 {
            shop.source.place(30, 10).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        shop.server.kill();
        shop.source.place(30, 10).await;
        tokio::time::sleep(Duration::from_millis(100 * round)).await;
        shop.server.restart().await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    relay.stop().await;
    receiver.stop().await;
}

/// A key whose event the receiver refuses is parked by its inbox; the others of its lane flow.
#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_key_stops_nobody_else() {
    let mut shop = Shop::new().await;
    shop.source.place(300, 20).await;
    let relay = shop.source.relay(sink(&shop.url()).await);
    let receiver = shop.consumer.receive_refusing(shop.feed().await, "k3");
    let done = async || shop.consumer.effects().await.len() >= 285;
    until("the effects of the other keys", done).await;
    let verdict = shop.consumer.verdict(&shop.source).await;
    assert_eq!(
        (verdict.lost.count, verdict.duplicated.count, verdict.out_of_order.count),
        (15, 0, 0),
        "{verdict}"
    );
    until("all of it to be parked", async || {
        let keys = shop.consumer.0.parked_keys(None).await.unwrap();
        let [key] = &keys[..] else { return false };
        shop.consumer.0.parked_records(key, 100).await.unwrap().len() == 15
    })
    .await;
    relay.stop().await;
    receiver.stop().await;
}

/// Events of others come by their ids; what is no event is passed over.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_entries_neither_block_nor_take_effect_twice() {
    let mut shop = Shop::new().await;
    let relay = shop.source.relay(sink(&format!("{}&lanes=1", shop.url())).await);
    let receiver = shop.consumer.receive(shop.feed().await);
    let add = format!("XADD {}:0 *", shop.stream);
    ask::<String>(&shop.server, &format!("{add} message hello")).await;
    for _ in 0..2 {
        let event = "specversion 1.0 id f1 type T source elsewhere subject f";
        ask::<String>(&shop.server, &format!("{add} {event}")).await;
    }
    until("the foreign event", async || !shop.consumer.effects().await.is_empty()).await;
    shop.source.place(50, 5).await;
    until("all effects", async || shop.consumer.effects().await.len() >= 51).await;
    let effects = shop.consumer.effects().await;
    assert_eq!(effects.iter().filter(|(_, id)| id == "f1").count(), 1, "once in effect");
    relay.stop().await;
    receiver.stop().await;
}

/// A record outside the stream that the receiver refuses holds back its key, not its partition.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_redrive_holds_back_its_key_alone() {
    let mut shop = Shop::new().await;
    shop.source.place(1, 1).await;
    let mut deliveries = shop.source.deliveries().await;
    let mut redriven = deliveries[0].clone();
    redriven.order = Order::ById;
    redriven.record.event = event("poison", "r1");
    redriven.record.event.key = Some("poison".into());
    deliveries.insert(0, redriven);
    let receipts = sink(&shop.url()).await.publish(&deliveries).await.unwrap();
    assert_eq!(receipts, [Receipt::Accepted, Receipt::Accepted]);
    let receiver = shop.consumer.receive_refusing(shop.feed().await, "poison");
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    receiver.stop().await;
}

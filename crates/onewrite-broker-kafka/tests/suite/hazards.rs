//! What brokers do to those who trust them: lost answers, lost messages, reordering, servers that go away.
//!
//! A relay, the topic and a receiver with its inbox work as they do in production; what took effect is
//! compared with what was committed.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use onewrite_broker_kafka::{Announcement, KafkaSink};
use onewrite_core::{
    BoxFuture, Code, Delivery, Incarnation, Partition, Result, Sequence,
    broker::{Receipt, Sink},
    record::Order,
    sabotage::{Defect, Sabotage},
    store::Store as _,
};
use onewrite_testkit::{history::Verdict, server::Kafka};
use rdkafka::Message as _;

use crate::rig::{
    PATIENCE, Shop, assert_clean, event, listen, own_server, send, sink, until, within,
};

/// A shop on a server of its own, that waits shortly for answers.
async fn shop_to_disturb() -> (Kafka, Shop, String) {
    let server = own_server().await;
    let shop = Shop::on(server.address().clone(), 8).await;
    let url = shop.url().replace("timeout=3", "timeout=400ms");
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
    let stored = i64::try_from(shop.stored().await.len()).unwrap();
    until("reading to the end", async || {
        shop.committed().await.into_iter().flatten().sum::<i64>() == stored
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

/// A sink whose servers lose one message after they answered for it, as a failover can.
struct Losing {
    sink: KafkaSink,
    id: &'static str,
    lost: AtomicBool,
}

impl Losing {
    fn new(sink: KafkaSink, id: &'static str) -> Self {
        Self { sink, id, lost: AtomicBool::new(false) }
    }
}

impl Sink for Losing {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        Box::pin(async {
            let at = batch.iter().position(|delivery| delivery.record.id() == self.id);
            let Some(at) = at.filter(|_| !self.lost.load(Ordering::Relaxed)) else {
                return self.sink.publish(batch).await;
            };
            let mut others = batch.to_vec();
            others.remove(at);
            let mut receipts = self.sink.publish(&others).await?;
            receipts.insert(at, Receipt::Accepted);
            self.lost.store(true, Ordering::Relaxed);
            Ok(receipts)
        })
    }

    fn gaps(&self, source: &str, life: Incarnation) -> Vec<(Partition, Sequence)> {
        self.sink.gaps(source, life)
    }
}

/// Loses a message that has successors in its partition, and says what came of it within `patience`; also
/// what was announced.
async fn lose_one(sabotage: Sabotage, patience: Duration) -> (Verdict, Vec<Announcement>) {
    let mut shop = Shop::new().await;
    shop.source.place(200, 10).await;
    let relay = shop.source.relay(Losing::new(sink(&shop.url()).await, "e20"));
    until("the end of the log", async || shop.source.is_settled().await).await;
    assert_eq!(shop.stored().await.len(), 199, "one is lost");
    let receiver = shop.consumer.receive_with(shop.feed().await, sabotage);
    let all = async || shop.consumer.effects().await.len() >= 200;
    within(patience, all).await;
    let listener = listen(&shop.server, &shop.stream).await;
    let mut said = Vec::new();
    while let Ok(Ok(message)) = tokio::time::timeout(Duration::from_secs(1), listener.recv()).await
    {
        said.push(serde_json::from_slice(message.payload().unwrap()).unwrap());
    }
    let verdict = shop.consumer.verdict(&shop.source).await;
    relay.stop().await;
    receiver.stop().await;
    (verdict, said)
}

/// I12 (b): what the servers lost after they answered is missed, announced, and sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_message_is_noticed_and_sent_again() {
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

/// I12 (c): what comes before its predecessor waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn reordering_is_put_right() {
    let mut shop = Shop::new().await;
    shop.source.place(30, 1).await;
    let deliveries = shop.source.deliveries().await;
    let sink = sink(&shop.url()).await;
    for late in deliveries[1..].iter().rev() {
        sink.publish(std::slice::from_ref(late)).await.unwrap();
    }
    let receiver = shop.consumer.receive(shop.feed().await);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(shop.consumer.effects().await.is_empty(), "nothing goes before the first");
    sink.publish(&deliveries[..1]).await.unwrap();
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    receiver.stop().await;
}

/// A relay that lost its lease wakes up and publishes what its successor has published long since.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_publish_takes_no_effect() {
    let mut shop = Shop::new().await;
    shop.source.place(30, 1).await;
    let deliveries = shop.source.deliveries().await;
    let (first, second) = (sink(&shop.url()).await, sink(&shop.url()).await);
    second.publish(&deliveries).await.unwrap();
    first.publish(&deliveries[5..20]).await.unwrap();
    assert_eq!(shop.stored().await.len(), 45);
    let receiver = shop.consumer.receive(shop.feed().await);
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    until("reading to the end", async || {
        shop.committed().await.into_iter().flatten().sum::<i64>() == 45
    })
    .await;
    assert_clean(&shop.consumer.verdict(&shop.source).await);
    receiver.stop().await;
}

/// A batch that the server finds too large is refused as a whole: each of its messages is tried alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_too_large_is_sent_in_pieces() {
    let server = own_server().await;
    let mut shop = Shop::on(server.address().clone(), 1).await;
    shop.source.place(30, 5).await;
    let deliveries = shop.source.deliveries().await;
    let sink = sink(&shop.url()).await;
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
    sink(&shop.url()).await.publish(&shop.source.deliveries().await).await.unwrap();
    crate::rig::commit(&shop.server, &shop.stream, 1_000).await;
    let receiver = shop.consumer.receive(shop.feed().await);
    assert_clean(&shop.consumer.all_of(&shop.source).await);
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
async fn foreign_messages_neither_block_nor_take_effect_twice() {
    let server = crate::rig::server().await;
    let mut shop = Shop::on(server, 1).await;
    let relay = shop.source.relay(sink(&shop.url()).await);
    let receiver = shop.consumer.receive(shop.feed().await);
    let sent = async |headers: &[(&str, &str)]| {
        send(&shop.server, &shop.stream, 0, headers, b"hello").await;
    };
    sent(&[]).await;
    for _ in 0..2 {
        let event = [("ce_specversion", "1.0"), ("ce_id", "f1"), ("ce_type", "T")];
        let from = [("ce_source", "elsewhere"), ("ce_subject", "f")];
        sent(&[&event[..], &from].concat()).await;
    }
    until("the foreign event", async || !shop.consumer.effects().await.is_empty()).await;
    shop.source.place(50, 5).await;
    until("all effects", async || shop.consumer.effects().await.len() >= 51).await;
    let effects = shop.consumer.effects().await;
    assert_eq!(effects.iter().filter(|(_, id)| id == "f1").count(), 1, "once in effect");
    let done = async || shop.committed().await == [Some(53)];
    until("the group's passing over what is no event", done).await;
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

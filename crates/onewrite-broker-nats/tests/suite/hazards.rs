//! What brokers do to those who trust them: lost answers, lost messages, reordering, full disks, crashes.
//!
//! A relay, the stream and a receiver with its inbox work as they do in production; what took effect is
//! compared with what was committed.

use std::{net::SocketAddr, time::Duration};

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy};
use futures::StreamExt as _;
use onewrite_broker_nats::{Announcement, NatsFeed, gap_subject};
use onewrite_core::{
    Code,
    broker::{Receipt, Sink as _},
    record::Order,
    sabotage::{Defect, Sabotage},
    store::Store as _,
};
use onewrite_testkit::{
    history::Verdict,
    proxy::{Fault, Proxy},
};
use tempfile::TempDir;

use crate::{
    rig::{Consumer, Source, client, event, reading, sink, unique, until, url, within},
    server::Nats,
};

/// A server, a source, a consumer, and the name of the stream between them.
struct Shop {
    server: Nats,
    source: Source,
    consumer: Consumer,
    stream: String,
    _folder: TempDir,
}

impl Shop {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            server: Nats::start().await,
            source: Source::open(folder.path()),
            consumer: Consumer::open(folder.path()).await,
            stream: unique("orders"),
            _folder: folder,
        }
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn url(&self) -> String {
        url(self.address(), &self.stream)
    }

    async fn feed(&self) -> NatsFeed {
        self.feed_at(&self.url()).await
    }

    async fn feed_at(&self, url: &str) -> NatsFeed {
        NatsFeed::open(reading(url, self.consumer.store(), &unique("feed"))).await.unwrap()
    }

    async fn stored(&self) -> u64 {
        let context = client(self.address()).await;
        context.get_stream(&self.stream).await.unwrap().cached_info().state.messages
    }
}

fn assert_clean(verdict: &Verdict) {
    assert!(verdict.is_clean(), "{verdict}");
}

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
    let mut receipts = Err(error);
    until("the answer", async || {
        receipts = sink.publish(&deliveries).await;
        receipts.is_ok()
    })
    .await;
    let receipts = receipts.unwrap();
    assert_eq!(receipts[0], Receipt::Duplicate);
    assert!(receipts.iter().all(Receipt::is_settled), "{receipts:?}");
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

/// Loses one message after the server acknowledged it, and says what came of it within `patience`; also
/// what was announced.
async fn lose_one(sabotage: Sabotage, patience: Duration) -> (Verdict, Vec<Announcement>) {
    let mut shop = Shop::new().await;
    shop.source.place(200, 10).await;
    let relay = shop.source.relay(sink(&shop.url()).await);
    until("the end of the log", async || shop.source.is_settled().await).await;
    let context = client(shop.address()).await;
    let mut announced = context.client().subscribe(gap_subject(&shop.stream)).await.unwrap();
    let stream = context.get_stream(&shop.stream).await.unwrap();
    assert!(stream.delete_message(77).await.unwrap());
    let receiver = shop.consumer.receive_with(shop.feed().await, sabotage);
    let all = async || shop.consumer.effects().await.len() >= 200;
    within(patience, all).await;
    let mut said = Vec::new();
    while let Ok(Some(message)) =
        tokio::time::timeout(Duration::from_millis(10), announced.next()).await
    {
        said.push(serde_json::from_slice(&message.payload).unwrap());
    }
    let verdict = shop.consumer.verdict(&shop.source).await;
    relay.stop().await;
    receiver.stop().await;
    (verdict, said)
}

/// I12 (b): what the server lost after acknowledging it is missed, announced, and sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_message_is_noticed_and_sent_again() {
    let (verdict, announced) = lose_one(Sabotage::default(), crate::rig::PATIENCE).await;
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
        assert_eq!(sink.publish(std::slice::from_ref(late)).await.unwrap(), [Receipt::Accepted]);
    }
    let receiver = shop.consumer.receive(shop.feed().await);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(shop.consumer.effects().await.is_empty(), "nothing goes before the first");
    sink.publish(&deliveries[..1]).await.unwrap();
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    receiver.stop().await;
}

/// H13, and a full stream: it refuses with its cure; nothing is parked, nothing is lost, and delivery goes
/// on by itself once there is room.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_refuses_and_loses_nothing() {
    let mut shop = Shop::new().await;
    let publisher = sink(&format!("{}&max_bytes=100000", shop.url())).await;
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
    let context = client(shop.address()).await;
    let mut config = context.get_stream(&shop.stream).await.unwrap().cached_info().config.clone();
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
        name: shop.stream.clone(),
        subjects: vec![format!("{}.>", shop.stream)],
        description: Some("onewrite lanes=8".into()),
        retention: RetentionPolicy::WorkQueue,
        discard: DiscardPolicy::New,
        // Not bytes: at those, servers before 2.10.5 drop what they have.
        max_messages: 90,
        ..Config::default()
    };
    client(shop.address()).await.create_stream(config).await.unwrap();
    // At most 32 are on their way when it gets full.
    let relay = shop.source.relay(sink(&format!("{}&window=32", shop.url())).await);
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
    let receipts = sink(&shop.url()).await.publish(&deliveries).await.unwrap();
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
    let publisher = sink(&shop.url()).await;
    client(shop.address()).await.delete_stream(&shop.stream).await.unwrap();
    let error = publisher.publish(&shop.source.deliveries().await).await.unwrap_err();
    assert_eq!(error.code(), Code::SinkRefused);
    assert!(error.context().contains("deleted"), "{error}");
    // Created again, with everything gone, the receiver asks for what it misses.
    let relay = shop.source.relay(sink(&shop.url()).await);
    until("the end of the log", async || shop.source.is_settled().await).await;
    client(shop.address()).await.get_stream(&shop.stream).await.unwrap().purge().await.unwrap();
    shop.source.place(9, 3).await;
    let receiver = shop.consumer.receive(shop.feed().await);
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    relay.stop().await;
    receiver.stop().await;
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
        shop.server.restart().await;
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

/// Events of others come by their ids; what is no event is passed over and stays in the stream.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_messages_neither_block_nor_vanish() {
    let mut shop = Shop::new().await;
    let relay = shop.source.relay(sink(&format!("{}&lanes=1", shop.url())).await);
    let receiver = shop.consumer.receive(shop.feed().await);
    let client = client(shop.address()).await.client();
    let subject = format!("{}.0.elsewhere", shop.stream);
    let json = r#"{"specversion":"1.0","id":"f1","type":"T","source":"elsewhere","subject":"f"}"#;
    for payload in ["no event", json, json] {
        client.publish(subject.clone(), payload.into()).await.unwrap();
    }
    client.flush().await.unwrap();
    until("the foreign event", async || !shop.consumer.effects().await.is_empty()).await;
    shop.source.place(50, 5).await;
    until("all effects", async || shop.consumer.effects().await.len() >= 51).await;
    let effects = shop.consumer.effects().await;
    assert_eq!(effects.iter().filter(|(_, id)| id == "f1").count(), 1, "once in effect");
    assert_eq!(shop.stored().await, 53, "what is no event is still there");
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
    sink(&shop.url()).await.publish(&deliveries).await.unwrap();
    let receiver = shop.consumer.receive_refusing(shop.feed().await, "poison");
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    receiver.stop().await;
}

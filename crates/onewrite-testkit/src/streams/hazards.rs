//! What brokers do to those who trust them: lost answers, lost messages, reordering, crashes.
//!
//! Times stand still for nobody here: servers, relays and receivers are real.

use std::time::Duration;

use onewrite_core::{
    Code,
    broker::{Receipt, Sink as _},
    record::Order,
    sabotage::Sabotage,
};
use onewrite_lanes::Announcement;

use super::{Crash, Shop, Stream, assert_clean, losing::Losing};
use crate::{
    history::Verdict,
    proxy::{Fault, Proxy},
    rig::{PATIENCE, event, until, within},
};

/// I12 (a): what was published and its answer lost is sent again, and takes effect once.
pub async fn a_lost_answer_does_not_double<B: Stream>() {
    let mut shop = Shop::<B>::new().await;
    let receiver = shop.consumer.receive(shop.feed().await);
    shop.source.place(20, 5).await;
    let deliveries = shop.source.deliveries().await;
    let proxy = Proxy::start(shop.broker.address()).await.unwrap();
    let sink = B::sink(&shop.broker.url_at(proxy.addr())).await;
    // Whatever has to be agreed on at first.
    assert_eq!(sink.publish(&deliveries[..1]).await.unwrap(), [Receipt::Accepted]);
    proxy.set(Fault::DropReplies);
    let error = sink.publish(&deliveries[1..2]).await.unwrap_err();
    assert_eq!(error.code(), Code::SinkUnreachable, "{error}");
    let taken = async || shop.consumer.effects().await.len() == 2;
    until("taking what was not answered for", taken).await;
    proxy.set(Fault::Pass);
    let mut settled = 1;
    until("settling", async || {
        let receipts = sink.publish(&deliveries[settled..]).await.unwrap_or_default();
        settled += receipts.iter().take_while(|receipt| receipt.is_settled()).count();
        settled == deliveries.len()
    })
    .await;
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    receiver.stop().await;
}

/// The same on both sides at once, again and again, from the source to the effect.
pub async fn cut_connections_lose_and_double_nothing<B: Stream>() {
    let mut shop = Shop::<B>::new().await;
    let proxy = Proxy::start(shop.broker.address()).await.unwrap();
    let through = shop.broker.url_at(proxy.addr());
    let relay = shop.source.relay(B::sink(&through).await);
    let receiver = shop.consumer.receive(shop.feed_at(&through).await);
    for round in 0..12_usize {
        shop.source.place(40, 10).await;
        tokio::time::sleep(Duration::from_millis(20 + 10 * (round as u64 % 4))).await;
        let faults = [
            Fault::DropReplies,
            Fault::Cut { after_bytes: 20_000 },
            Fault::Refuse,
            Fault::Blackhole,
        ];
        proxy.set(faults[round % 4]);
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

/// Loses one message after the server answered for it, and says what came of it within `patience`; also
/// what was announced.
async fn lose_one<B: Stream>(
    sabotage: Sabotage,
    patience: Duration,
) -> (Verdict, Vec<Announcement>) {
    let mut shop = Shop::<B>::new().await;
    shop.source.place(200, 10).await;
    let relay = shop.source.relay(Losing::new(shop.sink().await, B::LOSES));
    until("the end of the log", async || shop.source.is_settled().await).await;
    let mut announced = shop.broker.announced().await;
    shop.broker.lose_one().await;
    let receiver = shop.consumer.receive_with(shop.feed().await, sabotage);
    let all = async || shop.consumer.effects().await.len() >= 200;
    within(patience, all).await;
    let mut said = Vec::new();
    while let Ok(one) = announced.try_recv() {
        said.push(one);
    }
    let verdict = shop.consumer.verdict(&shop.source).await;
    relay.stop().await;
    receiver.stop().await;
    (verdict, said)
}

/// I12 (b): what the server lost after it answered is missed, announced, and sent again.
pub async fn a_lost_message_is_noticed_and_sent_again<B: Stream>() {
    let (verdict, announced) = lose_one::<B>(Sabotage::default(), PATIENCE).await;
    assert_clean(&verdict);
    assert!(!announced.is_empty(), "nobody had to ask for it");
    assert!(announced.iter().all(|said| said.source == "shop"), "{announced:?}");
}

/// The control: without the chain of predecessors nobody misses it.
#[cfg(feature = "sabotage")]
pub async fn without_the_chain_a_loss_goes_unnoticed<B: Stream>() {
    let blind = Sabotage::default().with(onewrite_core::sabotage::Defect::NoChain);
    let (verdict, announced) = lose_one::<B>(blind, Duration::from_secs(4)).await;
    assert_eq!(verdict.lost.count, 1, "the checker notices: {verdict}");
    assert!(announced.is_empty());
}

/// I12 (c): what comes before its predecessor waits for it.
pub async fn reordering_is_put_right<B: Stream>() {
    let mut shop = Shop::<B>::new().await;
    shop.source.place(30, 1).await;
    let deliveries = shop.source.deliveries().await;
    // There from now on.
    let receiver = shop.consumer.receive(shop.feed().await);
    for late in deliveries[1..].iter().rev() {
        shop.broker.append(late).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(shop.consumer.effects().await.is_empty(), "nothing goes before the first");
    shop.broker.append(&deliveries[0]).await;
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    receiver.stop().await;
}

/// The server dies and comes back in the middle of traffic.
pub async fn killed_servers_lose_and_double_nothing<B: Crash>() {
    let mut shop = Shop::on(B::alone().await).await;
    let relay = shop.source.relay(shop.sink().await);
    let receiver = shop.consumer.receive(shop.feed().await);
    for round in 0..4_u64 {
        for _ in 0..5 {
            shop.source.place(30, 10).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        shop.broker.kill();
        shop.source.place(30, 10).await;
        tokio::time::sleep(Duration::from_millis(100 * round)).await;
        shop.broker.restart().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    relay.stop().await;
    receiver.stop().await;
}

/// A key whose event the receiver refuses is parked by its inbox; the others of its lane flow.
pub async fn a_poisoned_key_stops_nobody_else<B: Stream>() {
    let mut shop = Shop::<B>::new().await;
    let receiver = shop.consumer.receive_refusing(shop.feed().await, "k3");
    shop.source.place(300, 20).await;
    let relay = shop.source.relay(shop.sink().await);
    let done = async || shop.consumer.effects().await.len() >= 285;
    until("the effects of the other keys", done).await;
    let verdict = shop.consumer.verdict(&shop.source).await;
    assert_eq!(
        (verdict.lost.count, verdict.duplicated.count, verdict.out_of_order.count),
        (15, 0, 0),
        "{verdict}"
    );
    until("all of it to be parked", async || {
        let store = shop.consumer.store();
        let keys = store.parked_keys(None).await.unwrap();
        let [key] = &keys[..] else { return false };
        store.parked_records(key, 100).await.unwrap().len() == 15
    })
    .await;
    relay.stop().await;
    receiver.stop().await;
}

/// Events of others come by their ids; what is no event is passed over.
pub async fn foreign_messages_neither_block_nor_take_effect_twice<B: Stream>() {
    let mut shop = Shop::<B>::new().await;
    let receiver = shop.consumer.receive(shop.feed().await);
    let relay = shop.source.relay(shop.sink().await);
    shop.broker.foreign().await;
    until("the foreign event", async || !shop.consumer.effects().await.is_empty()).await;
    shop.source.place(50, 5).await;
    until("all effects", async || shop.consumer.effects().await.len() >= 51).await;
    let effects = shop.consumer.effects().await;
    assert_eq!(effects.iter().filter(|(_, id)| id == "f1").count(), 1, "once in effect");
    relay.stop().await;
    receiver.stop().await;
}

/// A record outside the stream that the receiver refuses holds back its key, not its partition.
pub async fn a_refused_redrive_holds_back_its_key_alone<B: Stream>() {
    let mut shop = Shop::<B>::new().await;
    let receiver = shop.consumer.receive_refusing(shop.feed().await, "poison");
    shop.source.place(1, 1).await;
    let mut deliveries = shop.source.deliveries().await;
    let mut redriven = deliveries[0].clone();
    redriven.order = Order::ById;
    redriven.record.event = event("poison", "r1");
    redriven.record.event.key = Some("poison".into());
    deliveries.insert(0, redriven);
    let receipts = shop.sink().await.publish(&deliveries).await.unwrap();
    assert_eq!(receipts, [Receipt::Accepted, Receipt::Accepted]);
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    receiver.stop().await;
}

//! The publisher's half of a broker: the promises of [`Sink`], numbered as in its documentation.
//!
//! A sink without a receiver of ours at its other end (standard output, a plain webhook) is checked
//! with [`alone`].

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use onewrite_core::{
    Delivery, Error, Incarnation, Partition, Record, Result, Sequence, Text,
    broker::{Arrival, Feed, Mark, Receipt, Sink},
    record::Order,
};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{BrokerFixture, deliveries_ids, event, named, poll_once, same, soon};

/// Runs every case of the publisher's half.
///
/// # Panics
/// With the name of the first promise that is broken.
pub async fn all(fixture: &impl BrokerFixture) {
    crate::sink_cases!(all, fixture);
}

/// The life of the source in these cases.
const LIFE: Incarnation = Incarnation(0x00c0_ffee);

/// A delivery in the stream of `partition`, after the one before it.
pub(super) fn delivery(partition: Partition, sequence: Sequence) -> Delivery {
    let mut event = named(format!("e{partition}-{sequence}"), &format!("key-{partition}"));
    event.time = Some(onewrite_core::Timestamp(1_700_000_000_000_000));
    event.key = Some(event.order_key().clone());
    event.data = format!("{{\"n\": {sequence}}}").into();
    let source = Text::from_static("shop");
    let record = Record { source, incarnation: LIFE, partition, sequence, event };
    Delivery { record, order: Order::Chained { previous: sequence - 1 } }
}

/// Deliveries of `partitions`, alternating, with the sequences of `range`.
pub(super) fn batch(partitions: Partition, range: std::ops::Range<Sequence>) -> Vec<Delivery> {
    range.flat_map(|n| (0..partitions).map(move |partition| delivery(partition, n))).collect()
}

/// Settles all that arrives as `judge` says, and passes on what arrived.
pub(super) fn settle(
    mut feed: Box<dyn Feed>,
    judge: impl Fn(&[Delivery]) -> Vec<Receipt> + Send + 'static,
) -> mpsc::UnboundedReceiver<Delivery> {
    let (seen, arrived) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(mut arrival) = feed.next().await {
            let deliveries = arrival.take();
            let receipts = judge(&deliveries);
            for delivery in deliveries {
                let _ = seen.send(delivery);
            }
            // A sender that gave up sends again.
            let _ = arrival.settle(receipts).await;
        }
    });
    arrived
}

pub(super) fn accept(deliveries: &[Delivery]) -> Vec<Receipt> {
    vec![Receipt::Accepted; deliveries.len()]
}

pub(super) fn publish(
    sink: &Arc<dyn Sink>,
    batch: Vec<Delivery>,
) -> JoinHandle<Result<Vec<Receipt>>> {
    let sink = Arc::clone(sink);
    tokio::spawn(async move { sink.publish(&batch).await })
}

pub(super) async fn arrival(feed: &mut Box<dyn Feed>) -> Box<dyn Arrival> {
    soon("an arrival", feed.next()).await.expect("no early end: the feed is open")
}

fn settled(result: &Result<Vec<Receipt>>) -> usize {
    result.iter().flatten().filter(|receipt| receipt.is_settled()).count()
}

/// Fails unless the settled receipts form a prefix in each partition.
fn assert_prefix(batch: &[Delivery], receipts: &[Receipt]) {
    let mut stopped: BTreeMap<Partition, bool> = BTreeMap::new();
    for (delivery, receipt) in batch.iter().zip(receipts) {
        let stopped = stopped.entry(delivery.record.partition).or_default();
        assert!(
            !(*stopped && receipt.is_settled()),
            "prefix: {} is settled behind one that is not: {receipts:?}",
            delivery.record.id()
        );
        *stopped |= !receipt.is_settled();
    }
}

/// Publishes until everything is settled, as a relay does: what was not settled is sent again, in
/// order.
pub(super) async fn publish_all(sink: &dyn Sink, batch: &[Delivery]) {
    let mut left = batch.to_vec();
    let sending = async {
        while !left.is_empty() {
            let Ok(receipts) = sink.publish(&left).await else {
                tokio::task::yield_now().await;
                continue;
            };
            let mut receipts = receipts.into_iter();
            left.retain(|_| !receipts.next().is_some_and(|receipt| receipt.is_settled()));
        }
    };
    soon("settling a batch that is sent until it is settled", sending).await;
}

/// 1: within a partition, deliveries are taken in the order given, whole and unchanged.
pub async fn order(fixture: &dyn BrokerFixture) {
    let (sink, feed) = fixture.pair().await;
    let mut arrived = settle(feed, accept);
    let mut sent = Vec::new();
    // Before the last batch is a hole, which is no gap.
    for (first, previous) in [(1, 0), (6, 5), (20, 10)] {
        let mut batch = batch(3, first..first + 5);
        for delivery in batch.iter_mut().filter(|delivery| delivery.record.sequence == first) {
            delivery.order = Order::Chained { previous };
        }
        let receipts = sink.publish(&batch).await.expect("a batch is taken");
        same("order: receipts", receipts, accept(&batch));
        sent.extend(batch);
    }
    let mut foreign = delivery(7, 1);
    foreign.order = Order::ById;
    foreign.record.event = event("named-headers")
        .header("shape", "round \"ä\" 100%")
        .bytes("image/png", vec![0, 255, 13, 10]);
    foreign.record.event.id = Some("unordered".into());
    foreign.record.event.key = Some("named-headers".into());
    foreign.record.event.time = Some(onewrite_core::Timestamp(1));
    same(
        "order: receipts",
        sink.publish(std::slice::from_ref(&foreign)).await.unwrap(),
        vec![Receipt::Accepted],
    );
    sent.push(foreign);
    let mut found = Vec::new();
    for _ in 0..sent.len() {
        found.push(soon("an arrival", arrived.recv()).await.expect("all that was settled arrived"));
    }
    for partition in [0, 1, 2, 7] {
        let of = |all: &[Delivery]| -> Vec<Delivery> {
            all.iter().filter(|one| one.record.partition == partition).cloned().collect()
        };
        same("order: what arrives in a partition", of(&found), of(&sent));
    }
}

/// 2: in each partition the settled receipts form a prefix.
pub async fn prefix(fixture: &dyn BrokerFixture) {
    let (sink, feed) = fixture.pair().await;
    // A receiver that keeps the rules: nothing behind the third of partition 1.
    let _arrived = settle(feed, |deliveries| {
        let judge =
            |delivery: &Delivery| match (delivery.record.partition, delivery.record.sequence) {
                (1, 3) => Receipt::Retry("busy".into()),
                (1, 4..) => Receipt::Blocked,
                _ => Receipt::Accepted,
            };
        deliveries.iter().map(judge).collect()
    });
    let batch = batch(2, 1..6);
    let receipts = sink.publish(&batch).await.expect("a batch is taken in part");
    same("prefix: one receipt each", receipts.len(), batch.len());
    assert_prefix(&batch, &receipts);
    let taken: Vec<&str> = batch
        .iter()
        .zip(&receipts)
        .filter(|(_, receipt)| receipt.is_settled())
        .map(|(delivery, _)| delivery.record.id())
        .collect();
    let expected = ["e0-1", "e1-1", "e0-2", "e1-2", "e0-3", "e0-4", "e0-5"];
    same("prefix: another partition goes on", taken, expected.to_vec());
}

/// 3: a receipt is given after the receiver has settled, not before.
pub async fn durable(fixture: &dyn BrokerFixture) {
    let (sink, mut feed) = fixture.pair().await;
    let batch = batch(2, 1..4);
    let mut publishing = publish(&sink, batch.clone());
    let mut arrival = arrival(&mut feed).await;
    let early = tokio::time::timeout(Duration::from_millis(50), &mut publishing).await;
    assert!(early.is_err(), "durable: receipts before the receiver has settled: {early:?}");
    let receipts = accept(&arrival.take());
    arrival.settle(receipts).await.expect("a sender that waits is told");
    let result = soon("durable: a receipt", publishing).await.unwrap();
    same("durable: receipts", result.unwrap(), accept(&batch));
}

/// 4: what a receiver drops is not settled; sending the same batch again is possible.
pub async fn unknown(fixture: &dyn BrokerFixture) {
    let (sink, mut feed) = fixture.pair().await;
    let batch = batch(2, 1..3);
    for _ in 0..2 {
        let publishing = publish(&sink, batch.clone());
        drop(arrival(&mut feed).await);
        let result = soon("unknown: hearing of it", publishing).await.unwrap();
        same("unknown: settled although the receiver dropped it", settled(&result), 0);
        if let Err(error) = result {
            let certainty = Error::certainty(&error);
            let never = onewrite_core::error::Retry::Never;
            assert_ne!(error.retry(), never, "unknown: {error} ({certainty:?}) is not sent again");
        }
    }
    let publishing = publish(&sink, batch.clone());
    let mut again = arrival(&mut feed).await;
    let deliveries = again.take();
    same("unknown: the same batch again", &deliveries, &batch);
    again.settle(accept(&deliveries)).await.expect("a sender that waits is told");
    let result = soon("unknown: the receipts of the same batch", publishing).await.unwrap();
    same("unknown: its receipts", result.unwrap(), accept(&batch));
}

/// 5: receipts of every kind come back in the order of the deliveries, one each.
pub async fn aligned(fixture: &dyn BrokerFixture) {
    let (sink, mut feed) = fixture.pair().await;
    let nothing = soon("aligned: an answer to nothing", sink.publish(&[])).await;
    same("aligned: nothing to send", nothing.unwrap(), Vec::new());
    let kinds = vec![
        Receipt::Accepted,
        Receipt::Duplicate,
        Receipt::Retry("busy: 100 % \"ä\"".into()),
        Receipt::Blocked,
        Receipt::Refused("never".into()),
        Receipt::Gap { have: 41 },
        Receipt::Diverged,
    ];
    let places = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (2, 43), (3, 9)];
    let batch: Vec<_> = places.map(|(partition, sequence)| delivery(partition, sequence)).into();
    let publishing = publish(&sink, batch.clone());
    let mut first = arrival(&mut feed).await;
    same("aligned: what arrives", first.take(), batch.clone());
    first.settle(kinds.clone()).await.expect("a sender that waits is told");
    let result = soon("aligned: the receipts", publishing).await.unwrap();
    same("aligned: each receipt at its delivery's place", result.unwrap(), kinds);
    // A receiver that miscounts must not shift the receipts of the others.
    let publishing = publish(&sink, batch.clone());
    let mut second = arrival(&mut feed).await;
    second.take();
    let _ = second.settle(vec![Receipt::Accepted; 2]).await;
    if let Ok(receipts) = soon("aligned: an answer", publishing).await.unwrap() {
        same("aligned: receipts of a receiver that miscounts", receipts.len(), batch.len());
    }
}

/// 6: dropping the future of a publish breaks nothing.
pub async fn cancel(fixture: &dyn BrokerFixture) {
    let (sink, mut feed) = fixture.pair().await;
    // Dropped with the batch in the receiver's hands.
    let publishing = publish(&sink, batch(1, 1..3));
    let mut taken = arrival(&mut feed).await;
    publishing.abort();
    let _ = publishing.await;
    let receipts = accept(&taken.take());
    // The sender is gone or its connection still there: both are fine.
    let _ = taken.settle(receipts).await;
    // Dropped at any other point.
    let mut arrived = settle(feed, accept);
    for round in 0..30_u64 {
        let one = [delivery(0, 3 + round)];
        let mut future = sink.publish(&one);
        if poll_once(&mut future).await.is_none() {
            let _ = tokio::time::timeout(Duration::from_micros(50 * (round % 10)), future).await;
        }
    }
    // What was not settled is sent again, and more behind it.
    publish_all(&*sink, &batch(1, 1..36)).await;
    let mut found = Vec::new();
    while deliveries_ids(&found).last() != Some(&"e0-35") {
        found.push(soon("cancel: what is sent after it", arrived.recv()).await.unwrap());
    }
}

/// Marks of the receiver are passed through, where there are any.
pub async fn marks(fixture: &dyn BrokerFixture) {
    let marks = vec![
        Mark { partition: 3, sequence: 17, last_id: "e3-17".into() },
        Mark { partition: 255, sequence: u64::from(u32::MAX) + 5, last_id: "id \"ä\"".into() },
    ];
    if let Some((sink, _feed)) = fixture.pair_with_marks(marks.clone()).await {
        let found = sink.marks("shop", LIFE).await.expect("marks can be asked for");
        same("marks: the receiver's", found, Some(marks));
    } else {
        let (sink, _feed) = fixture.pair().await;
        let found = sink.marks("shop", LIFE).await.expect("marks can be asked for");
        same("marks: of a broker that passes none", found, None);
    }
}

/// What can be seen of a sink without the other end: one settled receipt for each delivery, and it
/// can be used again after a publish was dropped.
pub async fn alone(sink: &dyn Sink) {
    same("aligned: nothing to send", sink.publish(&[]).await.unwrap(), Vec::new());
    let batch = batch(3, 1..4);
    let _ = poll_once(sink.publish(&batch)).await;
    let receipts = sink.publish(&batch).await.expect("a batch is taken");
    same("aligned: one receipt each", receipts.len(), batch.len());
    assert_prefix(&batch, &receipts);
    same("marks: of a sink that keeps none", sink.marks("shop", LIFE).await.unwrap(), None);
}

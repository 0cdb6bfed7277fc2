//! The consumer's half of a broker: the promises of [`Feed`](onewrite_core::broker::Feed), numbered
//! as in its documentation.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use onewrite_core::{Delivery, broker::Receipt};

use super::{
    BrokerFixture, poll_once, same,
    sink::{accept, arrival, batch, delivery, publish, publish_all},
    soon,
};

/// Runs every case of the consumer's half.
///
/// # Panics
/// With the name of the first promise that is broken.
pub async fn all(fixture: &impl BrokerFixture) {
    crate::feed_cases!(all, fixture);
}

/// 1: within a partition, arrivals keep the order of the sender, over many batches.
pub async fn order(fixture: &dyn BrokerFixture) {
    let (sink, mut feed) = fixture.pair().await;
    let sending = tokio::spawn(async move {
        for first in 0..20 {
            publish_all(&*sink, &batch(3, first * 7 + 1..first * 7 + 8)).await;
        }
    });
    let mut seen: BTreeMap<u16, Vec<u64>> = BTreeMap::new();
    while seen.values().map(Vec::len).sum::<usize>() < 3 * 140 {
        let mut next = arrival(&mut feed).await;
        let deliveries = next.take();
        for Delivery { record, .. } in &deliveries {
            seen.entry(record.partition).or_default().push(record.sequence);
        }
        next.settle(accept(&deliveries)).await.expect("a sender that waits is told");
    }
    soon("order: the end of the sender", sending).await.unwrap();
    let all: Vec<u64> = (1..=140).collect();
    let expected: BTreeMap<u16, Vec<u64>> = (0..3).map(|n| (n, all.clone())).collect();
    same("order: what arrived", seen, expected);
}

/// 2: what was not settled arrives again, as long as the sender holds it.
pub async fn redelivery(fixture: &dyn BrokerFixture) {
    let (sink, mut feed) = fixture.pair().await;
    let sent = batch(2, 1..4);
    let sending = {
        let (sink, sent) = (Arc::clone(&sink), sent.clone());
        tokio::spawn(async move { publish_all(&*sink, &sent).await })
    };
    // Dropped unseen, dropped after looking, and refused as a whole.
    drop(arrival(&mut feed).await);
    let mut looked = arrival(&mut feed).await;
    same("redelivery: after the first", looked.take(), sent.clone());
    drop(looked);
    let mut refused = arrival(&mut feed).await;
    same("redelivery: after the second", refused.take(), sent.clone());
    let receipts = vec![Receipt::Blocked; sent.len()];
    refused.settle(receipts).await.expect("a sender that waits is told");
    let mut last = arrival(&mut feed).await;
    same("redelivery: after the third", last.take(), sent.clone());
    last.settle(accept(&sent)).await.expect("a sender that waits is told");
    soon("redelivery: the end of it", sending).await.unwrap();
}

/// 3: a feed ends only when it was closed: not when nothing comes, nor when a sender or an arrival is
/// dropped.
pub async fn no_early_end(fixture: &dyn BrokerFixture) {
    let (sink, mut feed) = fixture.pair().await;
    let idle = tokio::time::timeout(Duration::from_millis(20), feed.next()).await;
    assert!(idle.is_err(), "no early end: the feed ends while nothing comes");
    let publishing = publish(&sink, batch(1, 1..3));
    drop(arrival(&mut feed).await);
    let _ = soon("unknown: hearing of it", publishing).await;
    let publishing = publish(&sink, batch(1, 1..3));
    let held = arrival(&mut feed).await;
    publishing.abort();
    let _ = publishing.await;
    drop(held);
    let idle = poll_once(feed.next()).await;
    assert!(!matches!(idle, Some(None)), "no early end: the feed ends with a sender's call");
    drop(idle);
    let publishing = publish(&sink, batch(1, 5..7));
    let mut next = arrival(&mut feed).await;
    let deliveries = next.take();
    let _ = next.settle(accept(&deliveries)).await;
    let _ = soon("no early end: a later batch", publishing).await;
    match fixture.closed().await {
        Some(mut feed) => {
            let end = soon("no early end: the end of a closed feed", feed.next()).await;
            assert!(end.is_none(), "no early end: a closed feed goes on");
        }
        None => println!("left out: feeds of this broker are never closed"),
    }
}

/// 4: dropping the future of `next` loses nothing that was not settled.
pub async fn cancel(fixture: &dyn BrokerFixture) {
    let (sink, mut feed) = fixture.pair().await;
    let dropped = poll_once(feed.next()).await;
    assert!(dropped.is_none(), "no early end: something comes out of nothing");
    let sending = tokio::spawn(async move {
        for n in 1..=40 {
            publish_all(&*sink, &[delivery(0, n)]).await;
        }
    });
    let (mut seen, mut round) = (Vec::new(), 0_u64);
    let receiving = async {
        while seen.last() != Some(&40) {
            round += 1;
            let pause = Duration::from_micros(30 * (round % 7));
            let Ok(next) = tokio::time::timeout(pause, feed.next()).await else { continue };
            let mut next = next.expect("no early end: the feed is open");
            let deliveries = next.take();
            if next.settle(accept(&deliveries)).await.is_ok() {
                seen.extend(deliveries.iter().map(|delivery| delivery.record.sequence));
            }
        }
    };
    soon("cancel: everything arrives in spite of dropped futures", receiving).await;
    soon("cancel: the end of the sender", sending).await.unwrap();
    seen.dedup();
    same("cancel: what arrived", seen, (1..=40).collect::<Vec<u64>>());
}

/// An arrival hands its deliveries out once.
pub async fn taken_once(fixture: &dyn BrokerFixture) {
    let (sink, mut feed) = fixture.pair().await;
    let sent = batch(1, 1..4);
    let publishing = publish(&sink, sent.clone());
    let mut next = arrival(&mut feed).await;
    same("taken once: the first call", next.take(), sent.clone());
    same("taken once: the second call", next.take(), Vec::new());
    next.settle(accept(&sent)).await.expect("a sender that waits is told");
    let result = soon("taken once: the receipts", publishing).await.unwrap();
    same("taken once: receipts", result.unwrap(), accept(&sent));
}

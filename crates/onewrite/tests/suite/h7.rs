//! H7: a number is used again after its row was deleted, and a receiver takes the new record for the
//! old one.

use std::{sync::Arc, time::Duration};

use onewrite::{Retention, Sweeper, sabotage::Defect, sabotage::Sabotage};
use onewrite_testkit::history::Verdict;

use crate::rig::{Consumer, Running, SINK, Source, broken, events, queue, relaying, sound};

const EVERYTHING: Retention =
    Retention { log: Duration::ZERO, history: Duration::ZERO, every: Duration::from_secs(1) };

/// Delivers, deletes all that was delivered, starts the service again, and delivers more.
async fn delete_all_and_go_on(sabotage: Sabotage) -> Verdict {
    let folder = tempfile::tempdir().unwrap();
    let consumer = Consumer::open(folder.path()).await;
    for life in ["a", "b", "c"] {
        let source = Source::open(folder.path(), 2, sabotage).await;
        source.place(events(life, 5, 2)).await;
        let (sink, feed) = queue();
        let receiver = Running::receiver(consumer.inbox(sound()), feed);
        let relay = Running::relay(&source, sink, relaying(SINK, sound()), "one");
        source.settled(SINK).await;
        relay.stop().await;
        receiver.stop().await;
        let sweeper = Sweeper::new(Arc::new(source.0.clone()), EVERYTHING);
        while sweeper.sweep().await.unwrap() > 0 {}
        assert_eq!(source.count("onewrite_outbox").await, 0);
    }
    consumer.verdict(&Source::open(folder.path(), 2, sabotage).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn records_after_all_others_were_deleted_are_new() {
    let verdict = delete_all_and_go_on(sound()).await;
    assert!(verdict.is_clean(), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_start_over_lose_records() {
    let verdict = delete_all_and_go_on(broken(Defect::ReuseSequence)).await;
    assert!(verdict.lost.count > 0, "nothing noticed the numbers used again: {verdict}");
}

//! H11: the service publishes right after its commit, and a later event of the same key overtakes
//! one whose publishing is delayed.

use onewrite::{Delivery, Store, broker::Sink as _, record::Order, store::Read};
use onewrite_testkit::history::Verdict;

use crate::rig::{Consumer, Running, SINK, Source, event, queue, relaying, sound};

/// Who publishes.
#[derive(Clone, Copy, PartialEq)]
enum Publisher {
    /// The relay alone.
    Relay,
    /// The committing process as well, right after its commit.
    AfterCommit,
}

/// The log's last record, as the process that has just committed it would send it.
async fn last(source: &Source) -> Delivery {
    let read = Read { after: vec![(0, 0)], limit: 100, bytes_max: 1 << 20, kinds: Vec::new() };
    let record = source.0.read(read).await.unwrap().records.pop().unwrap();
    Delivery { record, order: Order::ById }
}

/// Two commits of one key; what the first does after its commit is delayed until after the second.
async fn two_commits(publisher: Publisher) -> Verdict {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::open(folder.path(), 1, sound()).await;
    let consumer = Consumer::open(folder.path()).await;
    let (sink, feed) = queue();
    let receiver = Running::receiver(consumer.inbox(sound()), feed);
    source.place([event("order-1", "created")]).await;
    let delayed = last(&source).await;
    source.place([event("order-1", "cancelled")]).await;
    let at_once = last(&source).await;
    if publisher == Publisher::AfterCommit {
        sink.publish(&[at_once]).await.unwrap();
    }
    let relay = Running::relay(&source, sink.clone(), relaying(SINK, sound()), "one");
    if publisher == Publisher::AfterCommit {
        sink.publish(&[delayed]).await.unwrap();
    }
    source.settled(SINK).await;
    relay.stop().await;
    receiver.stop().await;
    consumer.verdict(&source).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_relay_publishes_arrives_in_the_order_of_commits() {
    let verdict = two_commits(Publisher::Relay).await;
    assert!(verdict.is_clean(), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_after_the_commit_lets_a_later_event_overtake() {
    let verdict = two_commits(Publisher::AfterCommit).await;
    assert!(verdict.out_of_order.count > 0, "nothing noticed: {verdict}");
}

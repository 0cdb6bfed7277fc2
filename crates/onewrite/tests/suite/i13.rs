//! I13: a re-driven record comes below the receiver's mark and is dropped as a duplicate.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use onewrite::{
    RelayOptions, Store,
    inbox::Policy,
    parking::Request,
    sabotage::{Defect, Sabotage},
    store::{Batch, Durability, Item, Op, Outcome},
};
use onewrite_testkit::history::Verdict;

use crate::rig::{Consumer, Running, SINK, Source, broken, events, queue, relaying, sound, until};

/// A key is refused, parked by the relay and passed by the others; then the cause is mended and an
/// operator asks for it again.
async fn park_and_redrive(sabotage: Sabotage) -> Verdict {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::open(folder.path(), 1, sound()).await;
    let consumer = Consumer::open(folder.path()).await;
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = Arc::clone(&mended);
    let policy = Policy { sabotage, attempts_max: 100, ..Policy::new("payments") };
    let inbox = consumer.inbox_with(policy, move |context| {
        let refused = context.event().order_key() == "k1" && !is_mended.load(Ordering::SeqCst);
        if refused { Err("its account is locked".into()) } else { Ok(()) }
    });
    source.place(events("e", 12, 3)).await;
    let (sink, feed) = queue();
    let receiver = Running::receiver(inbox, feed);
    let options = RelayOptions { attempts_max: 2, ..relaying(SINK, sound()) };
    let relay = Running::relay(&source, sink, options, "one");
    source.settled(SINK).await;
    let keys = source.0.parked_keys(None).await.unwrap();
    assert_eq!(keys.iter().map(|key| (&*key.key, key.waiting)).collect::<Vec<_>>(), [("k1", 4)]);
    assert_eq!(consumer.effects().await.len(), 8, "the others are past it");
    mended.store(true, Ordering::SeqCst);
    let op = Op::Request {
        scope: keys[0].scope.clone(),
        source: keys[0].source.clone(),
        key: "k1".into(),
        request: Request::Retry,
        reason: None,
    };
    let items = vec![Item { fence: None, ops: vec![op] }];
    let done = source.0.commit(Batch { durability: Durability::Durable, items }).await.unwrap();
    assert!(matches!(done[0], Outcome::Applied(1)), "{done:?}");
    until("the end of the parked key", async || {
        source.0.parked_keys(None).await.unwrap().is_empty()
    })
    .await;
    source.place(events("later", 6, 3)).await;
    source.settled(SINK).await;
    relay.stop().await;
    receiver.stop().await;
    consumer.verdict(&source).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_key_is_handled_when_it_is_sent_again_below_the_mark() {
    let verdict = park_and_redrive(sound()).await;
    assert!(verdict.is_clean(), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn judged_by_the_mark_a_parked_key_is_dropped() {
    let verdict = park_and_redrive(broken(Defect::RedriveByMark)).await;
    assert!(verdict.lost.count > 0, "nothing noticed: {verdict}");
}

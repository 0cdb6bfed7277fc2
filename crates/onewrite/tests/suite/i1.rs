//! I1: the memory of seen ids is emptied before the last repetition arrives.

use std::time::Duration;

use onewrite::Delivery;
use onewrite::{
    Code, Receiver, ReceiverOptions,
    inbox::Policy,
    position::Incarnation,
    record::{Order, Record},
    sabotage::{Defect, Sabotage},
    sqlite::{InboxOptions, SqliteInbox},
};

use crate::rig::{
    Consumer, Running, SINK, Source, broken, count, event, events, queue, relaying, sound,
};

/// Events of a source that has no stream, as its broker numbers them.
fn foreign(count: u64) -> Vec<Delivery> {
    (0..count)
        .map(|n| Delivery {
            record: Record {
                source: "elsewhere".into(),
                incarnation: Incarnation(0),
                partition: 0,
                sequence: n,
                event: event("k", format!("f{n}")),
            },
            order: Order::ById,
        })
        .collect()
}

/// Everything comes, old ids are forgotten, and everything comes again: from a foreign source, and
/// from the beginning of a log.
async fn replay(sabotage: Sabotage) -> Vec<(String, String)> {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::open(folder.path(), 2, sound()).await;
    let consumer = Consumer::open(folder.path()).await;
    let inbox = consumer.inbox(sabotage);
    source.place(events("e", 6, 3)).await;
    let (sink, feed) = queue();
    let direct = Receiver::new(inbox.clone(), ReceiverOptions::default());
    let receiver = Running::receiver(inbox.clone(), feed);
    // Each name is a new subscriber that begins with the first record; the receiver is the same.
    for name in [SINK, "again"] {
        direct.receive(foreign(4)).await.unwrap();
        let relay = Running::relay(&source, sink.clone(), relaying(name, sound()), "one");
        source.settled(name).await;
        relay.stop().await;
        inbox.forget().await.unwrap();
    }
    receiver.stop().await;
    consumer.effects().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_within_the_horizon_is_recognised() {
    assert_eq!(replay(sound()).await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn forgotten_ids_make_a_replay_take_effect_twice() {
    let effects = replay(broken(Defect::ForgetIds)).await;
    assert_eq!(effects.len(), 14, "nothing noticed, or the stream's mark was forgotten as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retention_shorter_than_senders_repeat_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let consumer = Consumer::open(folder.path()).await;
    let open = |seconds| {
        let id_retention = Duration::from_secs(seconds);
        let redelivery_horizon = Duration::from_secs(60);
        let options = InboxOptions { policy: Policy::new("c"), id_retention, redelivery_horizon };
        SqliteInbox::new(&consumer.0, options, |_| Ok(()))
    };
    assert_eq!(open(60).err().map(|error| error.code()), Some(Code::UnsafeSetting));
    assert!(open(61).is_ok());
    assert_eq!(count(&consumer.0, "onewrite_inbox_id").await, 0);
}

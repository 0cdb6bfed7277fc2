//! I3: the effect and the note that it happened are written apart, and the process dies between them.

use std::path::Path;

use onewrite::{
    Event,
    inbox::Policy,
    sabotage::{Defect, Sabotage},
};
use onewrite_testkit::{
    child::{Child, End},
    history::Verdict,
};

use crate::{
    rig::{Consumer, Running, SINK, Source, broken, events, queue, relaying, sound},
    role,
};

const EVENTS: usize = 6;

/// Relays and receives until nothing is left, unless it is killed before.
pub(crate) async fn child(folder: &Path, sabotage: Sabotage) {
    let source = Source::open(folder, 2, sound()).await;
    let consumer = Consumer::open(folder).await;
    let policy = Policy { sabotage, ..Policy::new("payments") };
    let inbox = consumer.inbox_with(policy, |context| {
        context.emit(Event::new("Paid", "Order", context.event().aggregate_id.clone()))?;
        Ok(())
    });
    let (sink, feed) = queue();
    role::ready();
    let receiver = Running::receiver(inbox, feed);
    let relay = Running::relay(&source, sink, relaying(SINK, sound()), "child");
    source.settled(SINK).await;
    relay.stop().await;
    receiver.stop().await;
}

/// Returns the verdict on the effects, and how many events they caused.
async fn die_between_effect_and_mark(sabotage: Sabotage) -> (Verdict, i64) {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::open(folder.path(), 2, sound()).await;
    source.place(events("e", EVENTS, 3)).await;
    for (point, end) in [
        (Some("receiver.after_handler_before_commit"), End::Killed),
        (Some("receiver.after_commit_before_reply"), End::Killed),
        (None, End::Exit(0)),
    ] {
        let command = role::command("i3", folder.path(), sabotage, point);
        let mut child = Child::start(command).await.unwrap();
        assert_eq!(child.wait().await.unwrap(), end, "{point:?}");
    }
    let consumer = Consumer::open(folder.path()).await;
    let emitted = crate::rig::count(&consumer.0, "onewrite_outbox").await;
    (consumer.verdict(&source).await, emitted)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_between_handler_and_commit_repeats_the_event() {
    let (verdict, emitted) = die_between_effect_and_mark(sound()).await;
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!(emitted, EVENTS as i64, "reacting and emitting are one commit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_written_before_the_effect_loses_events() {
    let (verdict, _) = die_between_effect_and_mark(broken(Defect::MarkBeforeEffect)).await;
    assert!(verdict.lost.count > 0, "nothing noticed: {verdict}");
}

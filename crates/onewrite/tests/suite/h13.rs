//! H13: the relay notes an event as delivered before the receiver has it durably, and dies.

use onewrite::sabotage::{Defect, Sabotage};
use onewrite_testkit::{
    history::Verdict,
    proxy::{Fault, Proxy},
};

use crate::rig::{
    Consumer, Running, SINK, Source, broken, events, http_sink, relaying, serve_inbox, sound, until,
};

const EVENTS: i64 = 6;

struct After {
    /// Where the cursor stood after a request that never arrived, and after a lost reply.
    unanswered: u64,
    reply_lost: u64,
    verdict: Verdict,
}

async fn die_before_the_answer(sabotage: Sabotage) -> After {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::open(folder.path(), 1, sound()).await;
    let consumer = Consumer::open(folder.path()).await;
    let inbox = consumer.inbox(sound());
    let (address, feed) = serve_inbox(&inbox).await;
    let receiver = Running::receiver(inbox, feed);
    let proxy = Proxy::start(address).await.unwrap();
    let relay =
        |owner| Running::relay(&source, http_sink(proxy.addr()), relaying(SINK, sabotage), owner);
    source.place(events("e", EVENTS as usize, 2)).await;

    // The request goes out, and nobody is there any more.
    proxy.set(Fault::Blackhole);
    let first = relay("first");
    until("a request without an answer", async || {
        let cursors = onewrite::Store::cursors(&source.0, SINK).await.unwrap();
        cursors.iter().any(|cursor| cursor.reason.is_some())
    })
    .await;
    let unanswered = source.cursor(SINK, 0).await.sequence;
    first.crash().await;

    // The receiver commits, and its reply is lost with it.
    proxy.set(Fault::DropReplies);
    let second = relay("second");
    let received =
        async || consumer.effects().await.len() as i64 == EVENTS || source.is_settled(SINK).await;
    until("the receiver's commit", received).await;
    let reply_lost = source.cursor(SINK, 0).await.sequence;
    second.crash().await;

    proxy.set(Fault::Pass);
    let third = relay("third");
    source.settled(SINK).await;
    third.stop().await;
    receiver.stop().await;
    After { unanswered, reply_lost, verdict: consumer.verdict(&source).await }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_waits_for_the_answer() {
    let after = die_before_the_answer(sound()).await;
    assert_eq!((after.unanswered, after.reply_lost), (0, 0));
    assert!(after.verdict.is_clean(), "{}", after.verdict);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_does_not_wait_loses_what_it_passed() {
    let after = die_before_the_answer(broken(Defect::CursorBeforePublish)).await;
    assert!(after.verdict.lost.count > 0, "nothing noticed: {}", after.verdict);
}

//! H13: the relay notes an event as delivered before the receiver has it durably, and dies.

use onewrite::sabotage::{Defect, Sabotage};
use onewrite_testkit::{
    history::Verdict,
    proxy::{Fault, Proxy},
};

use crate::rig::{
    Consumer, Running, SINK, Source, broken, events, http_sink, relaying, serve_inbox, sound, until,
};

const EVENTS: usize = 6;

struct After {
    /// How far the cursor went after a request that never arrived, and after a lost reply.
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
    let relay = |proxy: &Proxy, owner| {
        Running::relay(&source, http_sink(proxy.addr()), relaying(SINK, sabotage), owner)
    };
    let first = relay(&proxy, "first");
    source.place(events("before", 1, 1)).await;
    source.settled(SINK).await;

    // The receiver commits, and its reply is lost with it.
    proxy.set(Fault::DropReplies);
    let settled = source.cursor(SINK, 0).await.sequence;
    source.place(events("e", EVENTS, 2)).await;
    until("the receiver's commit", async || consumer.effects().await.len() > EVENTS).await;
    let reply_lost = source.cursor(SINK, 0).await.sequence - settled;
    first.crash().await;
    proxy.set(Fault::Pass);
    let second = relay(&proxy, "second");
    let seen = consumer.effects().await.len();
    source.place(events("between", 1, 1)).await;
    until("the second relay", async || consumer.effects().await.len() > seen).await;
    source.renewed().await;
    source.settled(SINK).await;

    // The request goes out, and nobody is there any more.
    proxy.set(Fault::Blackhole);
    let settled = source.cursor(SINK, 0).await;
    source.place(events("f", EVENTS, 2)).await;
    // The relay notes that its request was not answered.
    until("a change of the cursor", async || source.cursor(SINK, 0).await != settled).await;
    let unanswered = source.cursor(SINK, 0).await.sequence - settled.sequence;
    second.crash().await;
    // With it goes what had left the relay and reached nobody.
    drop(proxy);

    let proxy = Proxy::start(address).await.unwrap();
    let third = relay(&proxy, "third");
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

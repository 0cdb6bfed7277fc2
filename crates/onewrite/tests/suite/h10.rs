//! H10: order is taken from a time stamp, and clocks stand still, step back or differ.

use onewrite::{
    Event, Timestamp,
    sabotage::{Defect, Sabotage},
};
use onewrite_testkit::history::Verdict;

use crate::rig::{Consumer, Running, SINK, Source, broken, event, queue, relaying, sound};

/// Noon of a day long ago: the first machine's clock was never set.
const NOON: i64 = 978_350_400_000_000;

/// The clock stands still, runs backwards, and jumps between two machines that differ by an hour.
fn times() -> impl Iterator<Item = i64> {
    let still = std::iter::repeat_n(NOON, 10);
    let backwards = (1..=10).map(|step| NOON - step * 1_000_000);
    let differing = (1..=10).map(|step| NOON + step - step % 2 * 3_600_000_000);
    still.chain(backwards).chain(differing)
}

async fn deliver(sabotage: Sabotage) -> Verdict {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::open(folder.path(), 2, sabotage).await;
    let consumer = Consumer::open(folder.path()).await;
    for (n, time) in times().enumerate() {
        let event = event(format!("k{}", n % 3), format!("e{n}"));
        source.place([Event { time: Some(Timestamp(time)), ..event }]).await;
    }
    let (sink, feed) = queue();
    let receiver = Running::receiver(consumer.inbox(sound()), feed);
    let relay = Running::relay(&source, sink, relaying(SINK, sound()), "one");
    source.settled(SINK).await;
    relay.stop().await;
    receiver.stop().await;
    consumer.verdict(&source).await
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_stand_still_or_step_back_change_no_order() {
    let verdict = deliver(sound()).await;
    assert!(verdict.is_clean(), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn order_taken_from_clocks_loses_records() {
    let verdict = deliver(broken(Defect::OrderByTime)).await;
    assert!(!verdict.is_clean(), "nothing noticed the clocks");
}

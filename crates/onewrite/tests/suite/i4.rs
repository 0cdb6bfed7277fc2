//! I4: one event that cannot be handled stops everything behind it, is dropped silently, or kills its
//! process for ever.

use std::path::Path;

use onewrite::{
    Event, Store,
    inbox::Policy,
    sabotage::{Defect, Sabotage},
};
use onewrite_testkit::{
    child::{Child, End},
    history::{Committed, check},
};

use crate::{
    rig::{Consumer, Running, SINK, Source, broken, event, queue, relaying, sound},
    role,
};

const ATTEMPTS: u32 = 2;

/// How often the process is started: once more than the poison may kill it. The first death makes its
/// lane suspicious; from then on each death counts, however many events are before it in its batch.
const LIVES: u32 = ATTEMPTS + 3;

/// A process that ends for good when it meets the poison: SIGABRT, nothing is unwound.
pub(crate) async fn child(folder: &Path, sabotage: Sabotage) {
    let source = Source::open(folder, 2, sound()).await;
    let consumer = Consumer::open(folder).await;
    let policy = Policy { sabotage, attempts_max: ATTEMPTS, ..Policy::new("payments") };
    let inbox = consumer.inbox_with(policy, |context| {
        if context.event().kind == "Poison" {
            std::process::abort();
        }
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

/// Starts the process again and again. Returns how often it was killed by the poison before it got
/// through, if it did.
async fn restart(folder: &Path, sabotage: Sabotage) -> Option<u32> {
    for deaths in 0..LIVES {
        let command = role::command("i4", folder, sabotage, None);
        match Child::start(command).await.unwrap().wait().await.unwrap() {
            End::Exit(0) => return Some(deaths),
            end => assert!(matches!(end, End::Signal(6)), "{end:?}"),
        }
    }
    None
}

/// Sixty events over four keys; one of them, far back in key `k1`, is poison.
async fn poison(source: &Source) {
    let events = (0..60).map(|n| {
        let event = event(format!("k{}", n % 4), format!("e{n}"));
        if n == 45 { Event { kind: "Poison".into(), ..event } } else { event }
    });
    source.place(events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_ends_its_process_is_parked_with_its_successors() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::open(folder.path(), 2, sound()).await;
    poison(&source).await;
    let deaths = restart(folder.path(), sound()).await.expect("it gets through");
    assert!(deaths >= ATTEMPTS, "the poison was not met");
    let consumer = Consumer::open(folder.path()).await;
    let mut others = Committed::default();
    for n in (0..60).filter(|n| ![45, 49, 53, 57].contains(n)) {
        others.push(format!("k{}", n % 4), format!("e{n}"));
    }
    let effects = consumer.effects().await;
    let verdict = check(&others, effects.iter().map(|(key, id)| (key.as_str(), id.as_str())));
    assert!(verdict.is_clean(), "{verdict}");
    let keys = consumer.0.parked_keys(None).await.unwrap();
    assert_eq!(keys.iter().map(|key| &*key.key).collect::<Vec<_>>(), ["k1"]);
    let parked = consumer.0.parked_records(&keys[0], 10).await.unwrap();
    let ids: Vec<_> = parked.iter().map(|parked| parked.record.id()).collect();
    assert_eq!(ids, ["e45", "e49", "e53", "e57"], "the key's successors wait behind it");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_stored_attempts_the_process_dies_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::open(folder.path(), 2, sound()).await;
    poison(&source).await;
    let deaths = restart(folder.path(), broken(Defect::NoAttempts)).await;
    assert_eq!(deaths, None, "nothing noticed");
}

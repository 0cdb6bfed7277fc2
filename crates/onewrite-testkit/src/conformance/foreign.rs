//! What is deduplicated by id: foreign events and re-driven records, and how long ids are kept.

use std::time::Duration;

use onewrite_core::{
    Code, Delivery, Incarnation, Record, Sequence, Text, broker::Receipt, record::Order,
};

use super::{
    Act, InboxFixture, Remember,
    inbox::{apply_all, chained, is_retry, mark_of, only, open, policy, race, receive, stream},
    named, same, soon,
};

/// An event from elsewhere, as a transport numbers it.
pub(super) fn foreign(id: &str, sequence: Sequence) -> Delivery {
    let event = named(id, "k");
    let source = Text::from_static("elsewhere");
    let record = Record { source, incarnation: Incarnation(0), partition: 0, sequence, event };
    Delivery { record, order: Order::ById }
}

/// 2: two concurrent deliveries of the same foreign event run its handler once (I2).
pub async fn foreign_insert_first(fixture: &dyn InboxFixture) {
    let event = |n: u64| foreign(&format!("f{n:02}"), n);
    let batches = (0..20).map(|n| vec![event(n * 2 + 1), event(n * 2 + 2)]).collect();
    let mut found = race(fixture, batches).await;
    found.sort_unstable();
    let expected: Vec<String> = (1..=40).map(|n| format!("f{n:02}")).collect();
    same("insert first: effects of foreign events", found, expected);
}

/// Foreign events are told apart by source and id, whatever number a transport gives them (I8).
pub async fn foreign_ids(fixture: &dyn InboxFixture) {
    let place = fixture.place().await;
    let inbox = open(fixture, &*place, apply_all()).await;
    let accepted = vec![Receipt::Accepted];
    same("foreign ids: new", receive(&inbox, &[foreign("a", 9)]).await, accepted.clone());
    for transport in [9, 1, 500] {
        let receipts = receive(&inbox, &[foreign("a", transport)]).await;
        same("foreign ids: under another transport id", receipts, vec![Receipt::Duplicate]);
    }
    same("foreign ids: another id", receive(&inbox, &[foreign("b", 9)]).await, accepted.clone());
    let mut other = foreign("a", 9);
    other.record.source = "third".into();
    same("foreign ids: another source", receive(&inbox, &[other]).await, accepted);
    let twice = receive(&inbox, &[foreign("c", 1), foreign("c", 2)]).await;
    same("foreign ids: twice in one batch", twice, vec![Receipt::Accepted, Receipt::Duplicate]);
    same("foreign ids: effects", place.effects().await, vec!["a", "b", "a", "c"]);
    // Refused, it is not remembered.
    let refusing = open(fixture, &*place, only("d", Act::Refuse("not yet"))).await;
    let receipts = receive(&refusing, &[foreign("d", 1)]).await;
    assert!(is_retry(&receipts[0]), "foreign ids: a refused event is {:?}", receipts[0]);
    same(
        "foreign ids: refused, then taken",
        receive(&inbox, &[foreign("d", 1)]).await,
        vec![Receipt::Accepted],
    );
}

/// Ids are forgotten after their retention and not before (I1).
pub async fn retention(fixture: &dyn InboxFixture) {
    let place = fixture.place().await;
    let long = open(fixture, &*place, apply_all()).await;
    receive(&long, &[foreign("a", 1)]).await;
    same("retention: forgotten before its time", long.forget().await.unwrap(), 0);
    same(
        "retention: still known",
        receive(&long, &[foreign("a", 1)]).await,
        vec![Receipt::Duplicate],
    );
    let brief = Remember { ids: Duration::from_micros(1), horizon: Duration::ZERO };
    let short = place.open(policy(fixture), brief, apply_all()).await.unwrap();
    let forgetting = async {
        while short.forget().await.unwrap() == 0 {
            tokio::task::yield_now().await;
        }
    };
    soon("retention: forgetting an id in its time", forgetting).await;
    same("retention: forgotten", receive(&long, &[foreign("a", 1)]).await, vec![Receipt::Accepted]);
}

/// A retention shorter than senders repeat is refused (I1).
pub async fn unsafe_retention(fixture: &dyn InboxFixture) {
    let place = fixture.place().await;
    let hour = Duration::from_secs(3600);
    for ids in [hour / 2, hour] {
        let remember = Remember { ids, horizon: hour };
        let opened = place.open(policy(fixture), remember, apply_all()).await;
        let code = opened.err().map(|error| error.code());
        same(
            "unsafe retention: ids kept no longer than senders repeat",
            code,
            Some(Code::UnsafeSetting),
        );
    }
}

/// A re-driven record below the mark is handled, once (I13).
pub async fn redriven(fixture: &dyn InboxFixture) {
    let place = fixture.place().await;
    let inbox = open(fixture, &*place, apply_all()).await;
    // Its sender parked 3, so the stream goes on from 2 to 4.
    let batch = [stream(0, 1, 2), vec![chained(0, 2, 4), chained(0, 4, 5)]].concat();
    receive(&inbox, &batch).await;
    let again = Delivery { order: Order::ById, ..chained(0, 2, 3) };
    same(
        "redriven: below the mark",
        receive(&inbox, std::slice::from_ref(&again)).await,
        vec![Receipt::Accepted],
    );
    same("redriven: again", receive(&inbox, &[again]).await, vec![Receipt::Duplicate]);
    same("redriven: effects", place.effects().await, vec!["0:1", "0:2", "0:4", "0:5", "0:3"]);
    same("redriven: the mark", mark_of(&inbox, 0).await, 5);
    same(
        "redriven: the stream goes on",
        receive(&inbox, &[chained(0, 5, 6)]).await,
        vec![Receipt::Accepted],
    );
}

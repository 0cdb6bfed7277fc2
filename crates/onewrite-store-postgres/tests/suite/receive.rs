//! `onewrite.receive`, for programs in any language, decides as the inbox in Rust does.

use std::sync::Arc;

use onewrite_core::{
    Code, Delivery, Incarnation, Record,
    broker::Receipt,
    inbox::{Attempt, Inbox, Policy},
    record::Order,
};
use onewrite_store_postgres::{
    Context, InboxOptions, PostgresInbox,
    tokio_postgres::{Client, Error},
};

use crate::{
    conformance::{Place, connect},
    rig::{event, execute, number, place, state, until},
};

/// What arrives: its id, its sequence, and its predecessor, or none when it comes outside the stream.
type Arrival = (&'static str, u64, Option<u64>);

/// How it is judged.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Verdict {
    New,
    Known,
    Gap,
    Diverged,
}

const STORIES: &[&[(Arrival, Verdict)]] = &[
    // A stream with a hole, repeated.
    &[
        (("a", 3, Some(0)), Verdict::New),
        (("a", 3, Some(0)), Verdict::Known),
        (("b", 9, Some(3)), Verdict::New),
        (("a", 3, Some(0)), Verdict::Known),
        (("b", 9, Some(3)), Verdict::Known),
    ],
    // A predecessor is missing, comes, and the stream goes on.
    &[
        (("b", 9, Some(3)), Verdict::Gap),
        (("a", 3, Some(0)), Verdict::New),
        (("c", 12, Some(9)), Verdict::Gap),
        (("b", 9, Some(3)), Verdict::New),
        (("c", 12, Some(9)), Verdict::New),
    ],
    // A predecessor below the mark: the sender began again from further back, with fewer records.
    &[(("a", 3, Some(0)), Verdict::New), (("c", 12, Some(2)), Verdict::New)],
    // Another event at the same place.
    &[(("a", 3, Some(0)), Verdict::New), (("x", 3, Some(0)), Verdict::Diverged)],
    // Outside the stream: by id.
    &[
        (("f", 0, None), Verdict::New),
        (("f", 0, None), Verdict::Known),
        (("g", 0, None), Verdict::New),
        (("a", 3, Some(0)), Verdict::New),
    ],
    // Delivered again by hand below the mark, then once more by a sender that went back.
    &[
        (("a", 3, Some(0)), Verdict::New),
        (("c", 12, None), Verdict::New),
        (("b", 9, Some(3)), Verdict::New),
        (("c", 12, Some(9)), Verdict::Known),
        (("d", 15, Some(12)), Verdict::New),
    ],
];

async fn by_function(
    client: &Client,
    consumer: &str,
    (id, sequence, previous): Arrival,
) -> Result<bool, Error> {
    let sql = "SELECT onewrite.receive($1, 'far', $2, '00000000000000aa', 5, $3, $4)";
    let previous = previous.map(u64::cast_signed);
    client
        .query_one(sql, &[&consumer, &id, &sequence.cast_signed(), &previous])
        .await
        .map(|row| row.get(0))
}

fn judged(result: &Result<bool, Error>) -> Verdict {
    match (result, &*state(result)) {
        (Ok(true), _) => Verdict::New,
        (Ok(false), _) => Verdict::Known,
        (_, "OW017") => Verdict::Gap,
        (_, "OW013") => Verdict::Diverged,
        other => panic!("{other:?}"),
    }
}

fn delivery((id, sequence, previous): Arrival) -> Delivery {
    let order = previous.map_or(Order::ById, |previous| Order::Chained { previous });
    let record = Record {
        source: "far".into(),
        incarnation: Incarnation(0xaa),
        partition: 5,
        sequence,
        event: event("k", id),
    };
    Delivery { record, order }
}

async fn by_inbox(inbox: &Arc<dyn Inbox>, arrival: Arrival) -> Verdict {
    let deliveries = vec![delivery(arrival)];
    let attempts = Attempt::of(&deliveries);
    inbox.attempt(attempts.clone(), true).await.unwrap();
    match &inbox.receive(deliveries, attempts).await.unwrap()[0] {
        Receipt::Accepted => Verdict::New,
        Receipt::Duplicate => Verdict::Known,
        Receipt::Gap { .. } => Verdict::Gap,
        Receipt::Diverged => Verdict::Diverged,
        other => panic!("{other:?}"),
    }
}

async fn inbox(place: &Place, consumer: &str) -> Arc<dyn Inbox> {
    let policy = Policy::new(consumer.to_owned());
    let options = InboxOptions { policy, ..InboxOptions::new("x") };
    let store = place.store().await;
    let inbox =
        PostgresInbox::new(&store, options, |_: &mut Context<'_>| Box::pin(async { Ok(()) }));
    Arc::new(inbox.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_and_the_inbox_decide_alike() {
    let place = place(4).await;
    let _store = place.store().await;
    let client = place.connect().await;
    for (number, story) in STORIES.iter().enumerate() {
        let consumer = format!("inbox-{number}");
        let inbox = inbox(&place, &consumer).await;
        for (step, (arrival, expected)) in story.iter().enumerate() {
            let found = judged(&by_function(&client, &format!("sql-{number}"), *arrival).await);
            assert_eq!(found, *expected, "story {number}, step {step}, by the function");
            let found = by_inbox(&inbox, *arrival).await;
            assert_eq!(found, *expected, "story {number}, step {step}, by the inbox");
        }
    }
    // Both keep their marks in the same form, so that either may go on where the other stopped.
    let differ = "SELECT count(*) FROM (SELECT replace(consumer, 'sql-', '') c, sequence, last_id, redriven FROM onewrite.inbox
            WHERE consumer LIKE 'sql-%' EXCEPT SELECT replace(consumer, 'inbox-', ''), sequence, last_id, redriven FROM onewrite.inbox) d";
    assert_eq!(number(&client, differ).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_function_says_what_it_means_in_rust() {
    let place = place(4).await;
    let store = place.store().await;
    let work = store.write(|tx| {
        Box::pin(async move {
            let sql = "SELECT onewrite.receive('c', 'far', 'b', '00000000000000aa', 5, 9, 3)";
            let refused = tx.query_one(sql, &[]).await.unwrap_err();
            assert_eq!(refused.code().unwrap().code(), "OW017");
            assert!(refused.as_db_error().unwrap().hint().unwrap().contains("come again"));
            Err::<(), _>(onewrite_core::Error::new(Code::Gap, "as expected"))
        })
    });
    assert_eq!(work.await.unwrap_err().code(), Code::Gap);
}

/// Whether looking comes before writing.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Function,
    /// As programs do it that look first: the broken variant.
    LookThenInsert,
}

/// Receives the same event on two connections whose transactions overlap; how many react.
async fn receive_twice(way: Way, arrival: Arrival) -> i64 {
    let place = place(4).await;
    let _store = place.store().await;
    let client = place.connect().await;
    execute(&client, "CREATE TABLE effect (id text); CREATE TABLE seen (id text)").await;
    let one = place.connect().await;
    execute(&one, "BEGIN").await;
    react(&one, way, arrival).await;
    let url = place.url.clone();
    let other = tokio::spawn(async move {
        let two = connect(&url).await;
        execute(&two, "SET application_name = 'second'; BEGIN").await;
        react(&two, way, arrival).await;
        execute(&two, "COMMIT").await;
    });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'second'
        AND wait_event_type = 'Lock'";
    until("the second one waits, or is done", async || {
        other.is_finished() || number(&client, waits).await == 1
    })
    .await;
    execute(&one, "COMMIT").await;
    other.await.unwrap();
    number(&client, "SELECT count(*) FROM effect").await
}

async fn react(client: &Client, way: Way, arrival: Arrival) {
    let is_new = if way == Way::Function {
        by_function(client, "c", arrival).await.unwrap()
    } else {
        let known = number(client, "SELECT count(*) FROM seen").await;
        execute(client, "INSERT INTO seen VALUES ('e')").await;
        known == 0
    };
    if is_new {
        execute(client, "INSERT INTO effect VALUES ('e')").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_receive_the_same_event_at_once_one_reacts() {
    assert_eq!(receive_twice(Way::Function, ("e", 3, Some(0))).await, 1);
    assert_eq!(receive_twice(Way::Function, ("e", 0, None)).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_looks_before_writing_reacts_twice() {
    assert_eq!(receive_twice(Way::LookThenInsert, ("e", 3, Some(0))).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reaction_that_is_rolled_back_leaves_the_event_new() {
    let place = place(4).await;
    let _store = place.store().await;
    let client = place.connect().await;
    for arrival in [("e", 3, Some(0)), ("f", 0, None)] {
        execute(&client, "BEGIN").await;
        assert!(by_function(&client, "c", arrival).await.unwrap());
        execute(&client, "ROLLBACK").await;
        assert!(by_function(&client, "c", arrival).await.unwrap());
        assert!(!by_function(&client, "c", arrival).await.unwrap());
    }
    // Consumers and sources do not share what they know.
    assert!(by_function(&client, "another", ("e", 3, Some(0))).await.unwrap());
}

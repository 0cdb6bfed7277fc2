//! I2: two receivers look whether an event is known, both find that it is not, and both run the
//! handler.

use std::{path::Path, sync::Arc};

use onewrite::{
    Delivery, Receiver, ReceiverOptions, Record,
    inbox::Policy,
    other,
    position::Incarnation,
    record::Order,
    sabotage::{Defect, Sabotage},
};
use tokio::sync::Barrier;

use crate::rig::{Consumer, EFFECT, broken, effect, event, execute, sound};

const MESSAGES: u64 = 20;

/// The `n`th message, as part of a stream or from elsewhere.
fn message(n: u64, order: Order) -> Delivery {
    let event = event("k", format!("m{n}"));
    let (source, incarnation) = ("shop".into(), Incarnation(1));
    Delivery { record: Record { source, incarnation, partition: 0, sequence: n, event }, order }
}

fn messages(chained: bool) -> impl Iterator<Item = Delivery> {
    (1..=MESSAGES).map(move |n| {
        let order = if chained { Order::Chained { previous: n - 1 } } else { Order::ById };
        message(n, order)
    })
}

/// Two processes, each with its own connections, get each message at the same moment.
async fn at_the_same_moment(chained: bool, sabotage: Sabotage) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let barrier = Arc::new(Barrier::new(2));
    let receive = async |folder: &Path| {
        let consumer = Consumer::open(folder).await;
        let policy = Policy { sabotage, ..Policy::new("payments") };
        let inbox = consumer.inbox_with(policy, |_| Ok(()));
        let receiver = Receiver::new(inbox, ReceiverOptions::default());
        for message in messages(chained) {
            barrier.wait().await;
            while !receiver.receive(vec![message.clone()]).await.unwrap()[0].is_settled() {}
        }
    };
    tokio::join!(receive(folder.path()), receive(folder.path()));
    Consumer::open(folder.path()).await.effects().await.len()
}

/// A receiver that looks first, and handles and notes the id in a later transaction.
async fn check_then_act(folder: &Path, barrier: &Barrier) {
    let consumer = Consumer::open(folder).await;
    execute(&consumer.0, "CREATE TABLE IF NOT EXISTS seen (id TEXT)").await;
    for message in messages(false) {
        let (key, id) = effect(&message.record);
        barrier.wait().await;
        let look = id.clone();
        let known = consumer.0.read_with(move |connection| {
            connection
                .query_row("SELECT count(*) FROM seen WHERE id = ?1", [look], |row| {
                    row.get::<_, i64>(0)
                })
                .map_err(other)
        });
        let known = known.await.unwrap() > 0;
        // The handler prepares something; meanwhile the other receiver has looked as well.
        barrier.wait().await;
        if known {
            continue;
        }
        let act = move |tx: &onewrite::sqlite::rusqlite::Connection| {
            tx.execute(EFFECT, [&key, &id]).map_err(other)?;
            tx.execute("INSERT INTO seen VALUES (?1)", [&id]).map_err(other)
        };
        consumer.0.write(act).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_receivers_of_one_message_handle_it_once() {
    for chained in [true, false] {
        let effects = at_the_same_moment(chained, sound()).await;
        assert_eq!(effects as u64, MESSAGES, "chained: {chained}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_deduplication_both_handle_it() {
    let effects = at_the_same_moment(false, broken(Defect::NoDedup)).await;
    assert!(effects as u64 > MESSAGES, "nothing noticed");
}

#[tokio::test(flavor = "multi_thread")]
async fn receivers_that_look_first_both_handle_it() {
    let folder = tempfile::tempdir().unwrap();
    let barrier = Barrier::new(2);
    tokio::join!(check_then_act(folder.path(), &barrier), check_then_act(folder.path(), &barrier));
    let effects = Consumer::open(folder.path()).await.effects().await.len();
    assert!(effects as u64 > MESSAGES, "nothing noticed");
}

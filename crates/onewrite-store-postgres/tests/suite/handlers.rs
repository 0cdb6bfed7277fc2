//! What handlers do wrong: a forgotten event, a failed statement, a wrong type. It is their event's fault
//! and nobody else's.

use std::sync::Arc;

use onewrite_core::{
    Delivery, Event, Incarnation, Record,
    broker::Receipt,
    inbox::HandlerError,
    record::Order,
    store::{Op, Store as _},
};
use onewrite_engine::{Receiver, ReceiverOptions};
use onewrite_store_postgres::{
    Context, InboxOptions, PostgresInbox, PostgresStore, tokio_postgres::Client,
};

use crate::rig::{apply, event, execute, place, texts};

/// The first delivery of a lane of its own.
fn delivery(partition: u16, key: &str) -> Delivery {
    let event = event(key, format!("id-{key}"));
    let record =
        Record { source: "far".into(), incarnation: Incarnation(7), partition, sequence: 1, event };
    Delivery { record, order: Order::Chained { previous: 0 } }
}

/// What a handler does for the event of the key `bad`; for others it changes the table and emits.
#[derive(Clone, Copy, Debug)]
enum Mistake {
    None,
    Forgets,
    /// Says it is done after a statement that failed.
    Overlooks,
    WrongType,
    /// A deferred constraint that only the commit looks at.
    Deferred,
    Panics,
    /// Emits what only the database refuses.
    TooLarge,
}

const TABLES: &str = "CREATE TABLE orders (id text);
    CREATE TABLE parent (id integer PRIMARY KEY);
    CREATE TABLE child (id integer REFERENCES parent DEFERRABLE INITIALLY DEFERRED)";

async fn react(context: &mut Context<'_>, mistake: Mistake) -> Result<(), HandlerError> {
    let id = context.record().id().to_owned();
    let mistake = if id == "id-bad" { mistake } else { Mistake::None };
    let insert = "INSERT INTO orders VALUES ($1)";
    context.tx().execute(insert, &[&id]).await?;
    match mistake {
        Mistake::Forgets => return Ok(()),
        Mistake::Overlooks => drop(context.tx().execute("SELECT 1 / 0", &[]).await),
        Mistake::WrongType => drop(context.tx().execute(insert, &[&7_i64]).await?),
        Mistake::Deferred => drop(context.tx().execute("INSERT INTO child VALUES (1)", &[]).await?),
        Mistake::Panics => panic!("on purpose"),
        Mistake::TooLarge | Mistake::None => {}
    }
    let bytes = if matches!(mistake, Mistake::TooLarge) { 2 << 20 } else { 1 };
    context.emit(Event::new("Done", "Order", id).bytes("text/plain", vec![b'x'; bytes]))?;
    Ok(())
}

struct After {
    client: Client,
    store: PostgresStore,
    rounds: usize,
}

/// Three lanes of one batch, the middle one with a handler that makes a mistake, until all are settled.
async fn settle(mistake: Mistake) -> After {
    let place = place(4).await;
    let (store, client) = (place.store().await, place.connect().await);
    execute(&client, TABLES).await;
    apply(&store, vec![Op::Guard { table: "orders".into() }]).await;
    let options = InboxOptions::new("payments");
    let inbox = PostgresInbox::new(&store, options, move |context: &mut Context<'_>| {
        Box::pin(react(context, mistake))
    });
    let inbox = inbox.unwrap();
    let receiver = Receiver::new(Arc::new(inbox), ReceiverOptions::default());
    let batch = vec![delivery(0, "left"), delivery(1, "bad"), delivery(2, "right")];
    for rounds in 1..20 {
        let receipts = match receiver.receive(batch.clone()).await {
            Ok(receipts) => receipts,
            // What only the commit sees is found by claiming each lane alone.
            Err(_) if matches!(mistake, Mistake::Deferred) => continue,
            Err(error) => panic!("{mistake:?}: the batch as a whole fails: {error}"),
        };
        let fine = |receipt: &&Receipt| matches!(receipt, Receipt::Accepted | Receipt::Duplicate);
        let neighbours = [&receipts[0], &receipts[2]];
        assert!(neighbours.iter().all(fine), "{mistake:?}: neighbours suffer: {receipts:?}");
        if receipts.iter().all(|receipt| fine(&receipt)) {
            return After { client, store, rounds };
        }
    }
    panic!("{mistake:?}: it is never settled");
}

/// The mistake's event is parked with `reason`, without effect, and the others took effect once.
async fn assert_parked(mistake: Mistake, reason: &str) {
    let After { client, store, .. } = settle(mistake).await;
    let parked = store.parked_keys(None).await.unwrap();
    assert_eq!(parked.len(), 1, "{mistake:?}: {parked:?}");
    assert_eq!(parked[0].key, "bad");
    assert!(parked[0].reason.contains(reason), "{mistake:?}: {}", parked[0].reason);
    let effects = texts(&client, "SELECT id FROM orders ORDER BY id").await;
    assert_eq!(effects, ["id-left", "id-right"], "{mistake:?}");
    let emitted = texts(&client, "SELECT aggregateid FROM onewrite.log ORDER BY 1").await;
    assert_eq!(emitted, ["id-left", "id-right"], "{mistake:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_mistake_all_take_effect_at_once() {
    let After { client, store, rounds } = settle(Mistake::None).await;
    assert_eq!(rounds, 1);
    assert!(store.parked_keys(None).await.unwrap().is_empty());
    let effects = texts(&client, "SELECT id FROM orders ORDER BY id").await;
    assert_eq!(effects, ["id-bad", "id-left", "id-right"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_event_parks_its_key() {
    assert_parked(Mistake::Forgets, "changed a guarded table and emitted no event").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlooked_failure_parks_its_key() {
    assert_parked(Mistake::Overlooks, "after a statement had failed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_type_parks_its_key() {
    assert_parked(Mistake::WrongType, "error serializing parameter 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_parks_its_key() {
    assert_parked(Mistake::Panics, "panicked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deferred_constraint_parks_its_key() {
    assert_parked(Mistake::Deferred, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_too_large_parks_its_key() {
    assert_parked(Mistake::TooLarge, "the limit is").await;
}

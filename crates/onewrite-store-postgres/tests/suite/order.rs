//! H1, H3, H5: numbers are drawn before commits; transactions begin early and end late, roll back to
//! savepoints, and place their events at once or with their commit, while an operator switches that.
//!
//! What was committed is known from `ledger`: a thing's row is locked by whoever changes it, so its
//! versions are in commit order.

use std::{sync::Arc, time::Duration};

use onewrite_core::{Event, position::partition_of};
use onewrite_store_postgres::{
    emit, emit_at_once,
    tokio_postgres::{Client, IsolationLevel, Transaction},
};
use onewrite_testkit::history::{Verdict, check};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use tokio::task::JoinHandle;

use crate::{
    conformance::{Place, connect},
    rig::{Follower, committed, event, execute, extended, key_of, number, place, state, until},
};

/// The last one is left to the transaction that is held.
const PARTITIONS: u16 = 5;
const WRITERS: u64 = 6;

const TABLES: &str = "CREATE TABLE thing (key text PRIMARY KEY, version integer NOT NULL);
    CREATE TABLE ledger (key text, version integer, id text)";
const LEDGER: &str = "SELECT key, id FROM ledger ORDER BY key, version";

/// How a transaction emits.
#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    WithCommit,
    AtOnce,
    /// By the SQL function, which goes by the source's `placement`.
    AsTheSourceSays,
}

fn turns() -> u32 {
    if extended() { 600 } else { 40 }
}

fn keys() -> Vec<String> {
    (0..9).map(|n| key_of(n % (PARTITIONS - 1), PARTITIONS, usize::from(n))).collect()
}

async fn emit_one(tx: &Transaction<'_>, how: How, event: &Event) -> Result<(), String> {
    match how {
        How::WithCommit => emit(tx, event).await.map(drop).map_err(|error| error.to_string()),
        How::AtOnce => emit_at_once(tx, event).await.map(drop).map_err(|error| error.to_string()),
        How::AsTheSourceSays => {
            let sql = "SELECT onewrite.emit('Thing', $1, 'Happened', id => $2)";
            let emitted = tx.execute(sql, &[&&*event.aggregate_id, &event.id.as_deref()]).await;
            emitted.map(drop).map_err(|error| state(&Err::<(), _>(error)))
        }
    }
}

/// Notes a change of a thing in the ledger, and locks the thing until the transaction ends.
async fn change(tx: &Transaction<'_>, key: &str, turn: &str) -> Result<Event, String> {
    let changed = tx
        .query_one(
            "UPDATE thing SET version = version + 1 WHERE key = $1 RETURNING version",
            &[&key],
        )
        .await
        .map_err(|error| state(&Err::<(), _>(error)))?;
    let (version, id): (i32, _) = (changed.get(0), format!("{turn}-{key}"));
    let row = "INSERT INTO ledger VALUES ($1, $2, $3)";
    tx.execute(row, &[&key, &version, &id]).await.unwrap();
    Ok(event(key, id))
}

/// One transaction, as it may come. An error is the database's word that it was not applied.
async fn turn(client: &mut Client, rng: &mut StdRng, name: &str) -> Result<(), String> {
    let snapshot = rng.random_bool(0.2);
    let level =
        if snapshot { IsolationLevel::RepeatableRead } else { IsolationLevel::ReadCommitted };
    let mut tx = client.build_transaction().isolation_level(level).start().await.unwrap();
    if rng.random_bool(0.3) {
        tx.execute("SELECT txid_current()", &[]).await.unwrap();
    }
    let (all, count) = (keys(), rng.random_range(1..4));
    let mut keys: Vec<&String> = all.choose_multiple(rng, count).collect();
    // Everybody locks in one order: rows, then partitions.
    keys.sort_unstable_by_key(|key| (partition_of(key, PARTITIONS), *key));
    let how = *[How::WithCommit, How::AtOnce, How::AsTheSourceSays].choose(rng).unwrap();
    let mut events = Vec::new();
    for key in keys {
        events.push(change(&tx, key, name).await?);
    }
    for event in &events {
        let savepoint = tx.savepoint("sometimes").await.unwrap();
        if rng.random_bool(0.2) {
            let undone = Event { id: Some(format!("undone-{name}").into()), ..event.clone() };
            emit_one(&savepoint, how, &undone).await?;
            savepoint.rollback().await.unwrap();
            emit_one(&tx, how, event).await?;
        } else {
            emit_one(&savepoint, how, event).await?;
            savepoint.commit().await.unwrap();
        }
    }
    // The transaction is long on purpose; how long differs.
    tokio::time::sleep(Duration::from_millis(rng.random_range(0..4))).await;
    if rng.random_bool(0.25) {
        tx.rollback().await.unwrap();
        return Ok(());
    }
    tx.commit().await.map_err(|error| state(&Err::<(), _>(error)))
}

async fn write(url: String, writer: u64) {
    let mut client = connect(&url).await;
    execute(&client, "SET deadlock_timeout = '50ms'").await;
    let mut rng = StdRng::seed_from_u64(writer);
    for number in 0..turns() {
        if let Err(why) = turn(&mut client, &mut rng, &format!("w{writer}-{number}")).await {
            let known = ["40P01", "40001"].iter().any(|code| why.contains(code));
            assert!(known, "a writer fails: {why}");
        }
    }
}

/// An operator who changes the source's placement all the time.
async fn switch(url: String) {
    let client = connect(&url).await;
    for turn in 0.. {
        let placement = if turn % 2 == 0 { "emit" } else { "commit" };
        let sql = format!("UPDATE onewrite.source SET placement = '{placement}'");
        execute(&client, &sql).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads by the highest number seen, as one would over one counter.
#[derive(Default)]
struct Naive {
    last: i64,
    seen: Vec<(String, String)>,
}

impl Naive {
    async fn step(&mut self, client: &Client) {
        let sql =
            "SELECT sequence, key, id FROM onewrite.log WHERE sequence > $1 ORDER BY sequence";
        for row in client.query(sql, &[&self.last]).await.unwrap() {
            self.last = row.get(0);
            self.seen.push((row.get(1), row.get(2)));
        }
    }
}

/// A transaction that has its number from the start and is committed when others are far ahead.
async fn hold(place: &Place) -> (Client, i64) {
    let client = place.connect().await;
    let key = key_of(PARTITIONS - 1, PARTITIONS, 0);
    execute(&client, "BEGIN").await;
    client.execute("INSERT INTO ledger VALUES ($1, 1, 'held')", &[&key]).await.unwrap();
    execute(&client, "UPDATE onewrite.source SET placement = 'emit'").await;
    client
        .execute("SELECT onewrite.emit('Thing', $1, 'Happened', id => 'held')", &[&key])
        .await
        .unwrap();
    execute(&client, "UPDATE onewrite.source SET placement = 'commit'").await;
    let drawn = number(&client, "SELECT max(sequence) FROM onewrite.log").await;
    (client, drawn)
}

struct Judged {
    positions: Verdict,
    highest: Verdict,
}

async fn follow_writers() -> Judged {
    let place = place(PARTITIONS).await;
    let store = Arc::new(place.store().await);
    let client = place.connect().await;
    execute(&client, TABLES).await;
    client.execute("INSERT INTO thing SELECT unnest($1::text[]), 0", &[&keys()]).await.unwrap();
    let (held, drawn) = hold(&place).await;
    let writers: Vec<JoinHandle<()>> =
        (0..WRITERS).map(|writer| tokio::spawn(write(place.url.clone(), writer))).collect();
    let (mut follower, mut naive) = (Follower::new(&*store), Naive::default());
    until("numbers above the held one", async || {
        follower.step(&*store).await;
        naive.step(&client).await;
        naive.last > drawn
    })
    .await;
    execute(&held, "COMMIT").await;
    let switcher = tokio::spawn(switch(place.url.clone()));
    while !writers.iter().all(JoinHandle::is_finished) {
        follower.step(&*store).await;
        naive.step(&client).await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    switcher.abort();
    follower.drain(&*store).await;
    naive.step(&client).await;
    follower.assert_ascending();
    let committed = committed(&client, LEDGER).await;
    let highest = check(&committed, naive.seen.iter().map(|(key, id)| (&**key, &**id)));
    Judged { positions: follower.verdict(&committed), highest }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_follows_the_positions_sees_everything_in_order() {
    let judged = follow_writers().await;
    assert!(judged.positions.is_clean(), "{}", judged.positions);
    assert!(judged.highest.lost.count > 0, "nothing noticed the late commit: {}", judged.highest);
}

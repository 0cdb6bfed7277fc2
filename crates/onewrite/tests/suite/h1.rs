//! H1: a number is drawn before another transaction commits; a reader that remembers the highest
//! number skips the one that commits late.

use std::{
    path::Path,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    thread,
    time::Duration,
};

use onewrite::sqlite::{
    emit,
    rusqlite::{Connection, TransactionBehavior},
};
use onewrite_testkit::history::Verdict;

use crate::rig::{
    Consumer, LEDGER, PATIENCE, Running, SINK, Source, event, execute, judge, queue, relaying,
    sound,
};

const WRITERS: usize = 6;
const TURNS: usize = 16;

/// Where a transaction gets the number that readers go by.
#[derive(Clone)]
enum Number {
    /// The log's own, drawn under the lock that is held until the commit.
    Log,
    /// A counter outside the transaction.
    Early(Arc<AtomicI64>),
}

/// One program with its own connection: transactions that stay open for a while, every fourth of
/// which is rolled back.
fn write(path: &Path, writer: usize, number: &Number, start: &Barrier) {
    let mut connection = Connection::open(path).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    start.wait();
    for turn in 0..TURNS {
        let (key, id) = (format!("k{}", (writer + turn) % 5), format!("w{writer}-{turn}"));
        let early = match number {
            Number::Log => None,
            Number::Early(counter) => Some(counter.fetch_add(1, Ordering::SeqCst)),
        };
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        tx.execute(LEDGER, [&key, &id]).unwrap();
        match early {
            None => drop(emit(&tx, &event(&key, &id)).unwrap()),
            Some(number) => {
                let row = (number, &key, &id);
                tx.execute("INSERT INTO naive (number, key, id) VALUES (?1, ?2, ?3)", row).unwrap();
            }
        }
        // The transaction is long on purpose; how long differs.
        thread::sleep(Duration::from_millis((writer * 7 + turn * 3) as u64 % 4));
        if (writer + turn) % 4 == 3 { tx.rollback().unwrap() } else { tx.commit().unwrap() }
    }
}

/// Follows `naive` by the highest number seen, until the writers are done.
fn follow(path: &Path, done: &AtomicBool) -> Vec<(String, String)> {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    let mut statement = connection
        .prepare("SELECT number, key, id FROM naive WHERE number > ?1 ORDER BY number")
        .unwrap();
    let (mut last, mut seen) = (0_i64, Vec::new());
    loop {
        let is_last = done.load(Ordering::SeqCst);
        let mut rows = statement.query([last]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            last = row.get(0).unwrap();
            seen.push((row.get(1).unwrap(), row.get(2).unwrap()));
        }
        if is_last {
            return seen;
        }
    }
}

async fn write_all(path: &Path, number: Number) {
    let start = Arc::new(Barrier::new(WRITERS));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (path, number, start) = (path.to_owned(), number.clone(), Arc::clone(&start));
            tokio::task::spawn_blocking(move || write(&path, writer, &number, &start))
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

async fn by_number(early: bool) -> Verdict {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::open(folder.path(), 4, sound()).await;
    let path = folder.path().join("shop.db");
    if early {
        execute(&source.0, "CREATE TABLE naive (number INTEGER PRIMARY KEY, key TEXT, id TEXT)")
            .await;
        let done = Arc::new(AtomicBool::new(false));
        let reader = tokio::task::spawn_blocking({
            let (path, done) = (path.clone(), Arc::clone(&done));
            move || follow(&path, &done)
        });
        write_all(&path, Number::Early(Arc::new(AtomicI64::new(1)))).await;
        done.store(true, Ordering::SeqCst);
        return judge(&source.committed().await, &reader.await.unwrap());
    }
    let consumer = Consumer::open(folder.path()).await;
    let (sink, feed) = queue();
    let receiver = Running::receiver(consumer.inbox(sound()), feed);
    let relay = Running::relay(&source, sink, relaying(SINK, sound()), "one");
    write_all(&path, Number::Log).await;
    source.settled(SINK).await;
    relay.stop().await;
    receiver.stop().await;
    consumer.verdict(&source).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_commits_late_is_not_skipped() {
    let verdict = by_number(false).await;
    assert!(verdict.is_clean(), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_drawn_outside_the_transaction_makes_its_reader_lose() {
    let verdict = by_number(true).await;
    assert!(verdict.lost.count > 0, "nothing noticed the early numbers: {verdict}");
}

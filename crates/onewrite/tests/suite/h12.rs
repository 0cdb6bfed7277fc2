//! H12: the log grows without bound or becomes slow, because delivered rows stay or a reader stays
//! open for long.
//!
//! `cargo xtask soak h12` does the same for minutes, with figures.

use std::{path::Path, sync::Arc, time::Duration};

use onewrite::{
    Event, NullSink, Retention, Shutdown, Sweeper,
    sabotage::{Defect, Sabotage},
    sqlite::rusqlite::Connection,
};

use crate::rig::{Running, SINK, Source, broken, event, relaying, sound, within};

const ROUNDS: usize = 10;
const ROUND: usize = 250;

/// Rows that may wait for the sweeper while the writers go on.
const ROWS_MAX: i64 = 2 * ROUND as i64;

const RETENTION: Retention =
    Retention { log: Duration::ZERO, history: Duration::ZERO, every: Duration::from_millis(5) };

struct Growth {
    /// The most rows that the log had at the end of a round.
    rows: i64,
    /// The bytes of SQLite's own log: while the reader was there, and after as much load again.
    wal_before: u64,
    wal_after: u64,
}

fn wal_bytes(folder: &Path) -> u64 {
    std::fs::metadata(folder.join("shop.db-wal")).map_or(0, |file| file.len())
}

async fn load(source: &Source, name: &str) -> i64 {
    let mut most = 0;
    for round in 0..ROUNDS {
        let events: Vec<Event> = (0..ROUND)
            .map(|n| {
                event(format!("k{}", n % 7), format!("{name}-{round}-{n}"))
                    .bytes("text/plain", vec![b'x'; 2_000])
            })
            .collect();
        source.place(events).await;
        // Retention keeps up unless something holds it back; then the log is measured as it is.
        let swept = async || source.count("onewrite_outbox").await <= ROWS_MAX;
        within(Duration::from_secs(3), swept).await;
        most = most.max(source.count("onewrite_outbox").await);
        if most > ROWS_MAX {
            break;
        }
    }
    most
}

/// A reader holds its transaction open while the log is written, and ends, unless it `stays`; then as
/// much is written again.
async fn read_for_long(sabotage: Sabotage, stays: bool) -> Growth {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::open(folder.path(), 4, sabotage).await;
    let relay = Running::relay(&source, NullSink::default(), relaying(SINK, sound()), "one");
    let shutdown = Shutdown::default();
    let sweeper = Sweeper::new(Arc::new(source.0.clone()), RETENTION);
    let sweeper = tokio::spawn(sweeper.run(shutdown.clone()));
    source.place([event("first", "first")]).await;
    let reader = Connection::open(folder.path().join("shop.db")).unwrap();
    let count = || reader.query_row("SELECT count(*) FROM ledger", [], |row| row.get::<_, i64>(0));
    reader.execute_batch("BEGIN").unwrap();
    let seen = count().unwrap();
    let mut rows = load(&source, "during").await;
    assert_eq!(count().unwrap(), seen, "the reader's snapshot moved");
    let wal_before = wal_bytes(folder.path());
    if !stays {
        reader.execute_batch("ROLLBACK").unwrap();
    }
    if rows <= ROWS_MAX {
        rows = rows.max(load(&source, "after").await);
    }
    let wal_after = wal_bytes(folder.path());
    shutdown.begin();
    sweeper.await.unwrap();
    relay.stop().await;
    Growth { rows, wal_before, wal_after }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_stays_bounded_while_a_reader_is_open() {
    let growth = read_for_long(sound(), false).await;
    assert!(growth.rows <= ROWS_MAX, "{} rows", growth.rows);
    let (before, after) = (growth.wal_before, growth.wal_after);
    // It starts over once a checkpoint finds no reader: a commit or two later.
    assert!(after < before / 4 * 5, "SQLite's log went from {before} to {after} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_retention_the_log_grows() {
    let growth = read_for_long(broken(Defect::NoRetention), false).await;
    assert!(growth.rows > ROWS_MAX, "nothing noticed: {} rows", growth.rows);
}

/// What no store can help: SQLite's log cannot start over under a reader. It shows that the bytes
/// measured above are the reader's doing.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stays_makes_sqlite_s_log_grow() {
    let growth = read_for_long(sound(), true).await;
    assert!(growth.rows <= ROWS_MAX, "{} rows", growth.rows);
    assert!(growth.wal_after > growth.wal_before * 3 / 2, "the reader does not matter");
}

//! A server that is killed: what was acknowledged is there, and nothing was read that is not.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use onewrite_core::{Code, store::Store as _};
use onewrite_store_mysql::{MysqlStore, emit};
use onewrite_testkit::server::Mariadb;

use crate::rig::{Follower, event, log, open, until};

struct Seen {
    acknowledged: Vec<String>,
    read: Vec<String>,
    /// What the log holds after the restart.
    left: HashSet<String>,
    /// Whether any id stands there twice.
    twice: bool,
}

/// Writes and reads until `enough` is read, kills the server in the middle, and looks.
async fn kill_while_writing(options: &[&str], enough: usize) -> Seen {
    let server = Arc::new(Mariadb::start_with(options).await.unwrap());
    server.address().create_database("crash").await.unwrap();
    let url = server.address().url("crash");
    let store = open(&url).await;
    let over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| tokio::spawn(write(store.clone(), writer, Arc::clone(&over))))
        .collect();
    let mut follower = Follower::new(&store);
    until("enough is read", async || {
        follower.step(&store).await.unwrap();
        follower.ids.len() >= enough
    })
    .await;
    // Killed while both go on.
    let killed = tokio::task::spawn_blocking({
        let server = Arc::clone(&server);
        move || server.kill()
    });
    while follower.step(&store).await.is_ok() {}
    killed.await.unwrap();
    over.store(true, Ordering::SeqCst);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    server.restart().await.unwrap();
    let ids = log(&open(&url).await).await;
    let left: HashSet<String> = ids.iter().cloned().collect();
    Seen { acknowledged, read: follower.ids, twice: left.len() < ids.len(), left }
}

/// Emits one event after the other until it cannot; says what was acknowledged.
async fn write(store: MysqlStore, writer: usize, over: Arc<AtomicBool>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for n in 0.. {
        let id = format!("{writer}-{n}");
        let own = event(&format!("k{}", n % 5), id.clone());
        let written =
            store.write(move |tx| Box::pin(async move { emit(tx, &own).await.map(drop) })).await;
        match written {
            Ok(()) => acknowledged.push(id),
            Err(error) if error.code() == Code::StoreBusy => {}
            Err(_) => break,
        }
        if over.load(Ordering::SeqCst) {
            break;
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_loses_nothing_that_was_acknowledged_or_read() {
    let seen = kill_while_writing(&[], 300).await;
    assert!(!seen.twice, "an event is in the log twice");
    let lost: Vec<_> = seen.acknowledged.iter().filter(|id| !seen.left.contains(*id)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let undone: Vec<_> = seen.read.iter().filter(|id| !seen.left.contains(*id)).collect();
    assert!(undone.is_empty(), "read, and never committed: {undone:?}");
}

/// The same with a server that syncs when it likes: the test would notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_sync_loses_what_was_read() {
    let weak = "--innodb-flush-log-at-trx-commit=0";
    let seen = kill_while_writing(&[weak, "--innodb-flush-log-at-timeout=2700"], 3_000).await;
    let undone = seen.read.iter().filter(|id| !seen.left.contains(*id)).count();
    assert!(undone > 0, "nothing was undone, of {}", seen.read.len());
}

/// A commit whose reply is lost is unknown, and a connection that is gone is made anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_goes_on_after_a_restart_of_its_server() {
    let server = Mariadb::start().await.unwrap();
    server.address().create_database("restart").await.unwrap();
    let store = open(&server.address().url("restart")).await;
    let write = |id: &'static str| {
        let own = event("k", id);
        store.write(move |tx| Box::pin(async move { emit(tx, &own).await.map(drop) }))
    };
    write("before").await.unwrap();
    server.kill();
    let refused = write("while it is down").await.unwrap_err();
    assert_eq!(refused.code(), Code::StoreUnreachable, "{refused}");
    assert!(store.now().await.is_err());
    server.restart().await.unwrap();
    until("the store works again", async || write("after").await.is_ok()).await;
    let ids = log(&store).await;
    assert_eq!(
        (ids.first().map(String::as_str), ids.last().map(String::as_str)),
        (Some("before"), Some("after"))
    );
}

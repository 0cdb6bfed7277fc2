//! A file that is removed, moved or replaced while it is open is not written on.

use std::{fs, path::Path};

use onewrite_core::{
    Code, Event,
    store::{Read, Store as _},
};
use onewrite_store_sqlite::{SqliteStore, emit};
use tempfile::TempDir;

use crate::emit::{every, open};

async fn write(store: &SqliteStore, id: &'static str) -> onewrite_core::Result<()> {
    let event = Event::new("Made", "Thing", id);
    store.write(move |tx| emit(tx, &event).map(drop)).await
}

async fn ids(store: &SqliteStore) -> Vec<String> {
    let request: Read = every(store);
    let mut records = store.read(request).await.unwrap().records;
    records.sort_by_key(|record| record.sequence);
    records.iter().map(|record| record.event.aggregate_id.to_string()).collect()
}

fn path(folder: &TempDir, name: &str) -> std::path::PathBuf {
    folder.path().join(name)
}

/// Writes and looks are refused, and say which file it is.
async fn is_refused(store: &SqliteStore, word: &str) {
    for error in [write(store, "lost").await.unwrap_err(), store.head().await.unwrap_err()] {
        assert_eq!(error.code(), Code::StoreUnreachable);
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_is_away_is_not_written_and_work_goes_on_when_it_is_back() {
    for name in ["shop.db", "shop.db-wal", "shop.db-shm"] {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        write(&store, "first").await.unwrap();
        let (here, away) = (path(&folder, name), path(&folder, "away"));
        fs::rename(&here, &away).unwrap();
        is_refused(&store, &format!("{name} was removed")).await;
        fs::rename(&away, &here).unwrap();
        write(&store, "second").await.unwrap();
        drop(store);
        assert_eq!(ids(&open(&folder)).await, ["first", "second"], "{name}");
    }
}

#[tokio::test]
async fn a_file_that_replaced_the_open_one_is_left_alone() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(&folder);
    write(&store, "first").await.unwrap();
    for name in ["shop.db", "shop.db-wal", "shop.db-shm"] {
        fs::rename(path(&folder, name), path(&other, name)).unwrap();
    }
    let new = open(&folder);
    write(&new, "of the new file").await.unwrap();
    is_refused(&store, "shop.db was replaced").await;
    let log = fs::metadata(path(&folder, "shop.db-wal")).unwrap().len();
    drop(store);
    let is_whole = |path: &Path| fs::metadata(path).is_ok_and(|file| file.len() == log);
    assert!(is_whole(&path(&folder, "shop.db-wal")), "the log of the new file was removed");
    write(&new, "and another").await.unwrap();
    drop(new);
    assert_eq!(ids(&open(&folder)).await, ["of the new file", "and another"]);
    // What was acknowledged of the old file is in it.
    assert_eq!(ids(&open(&other)).await, ["first"]);
}

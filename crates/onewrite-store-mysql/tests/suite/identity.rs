//! The schema: made once, by whoever is first, and not mistaken for another.

use onewrite_core::{Code, Incarnation, store::Store as _};
use onewrite_store_mysql::{Copied, MysqlStore, Options, SCHEMA_VERSION, emit};
use onewrite_testkit::server;
use tokio::task::JoinSet;

use crate::rig::{connect, database, event, execute, log, number, open};

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_create_the_schema_at_once_agree() {
    let url = database().await;
    let mut programs = JoinSet::new();
    for n in 0..5 {
        let source = Some(format!("from-{n}").into());
        let options = Options { source, partitions: 4, ..Options::from_url(&url).unwrap() };
        programs.spawn(MysqlStore::open(options));
    }
    let mut sources = Vec::new();
    while let Some(opened) = programs.join_next().await {
        sources.push(opened.unwrap().unwrap().source());
    }
    assert!(sources.iter().all(|source| *source == sources[0]), "{sources:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_was_broken_off_is_made_anew() {
    let url = database().await;
    let mut conn = connect(&url).await;
    open(&url).await;
    // The rows about the source and its first life are written last, and together.
    execute(&mut conn, "DELETE FROM onewrite_source").await;
    let refused = MysqlStore::open(Options::from_url(&url).unwrap()).await.err().unwrap();
    assert_eq!(refused.code(), Code::Corrupt, "a store that was in use is made anew: {refused}");
    execute(&mut conn, "DELETE FROM onewrite_incarnation").await;
    execute(&mut conn, "DROP TABLE onewrite_parked; CREATE TABLE mine (n INT)").await;
    let store = open(&url).await;
    emit(&mut conn, &event("k", "1")).await.unwrap();
    assert_eq!(log(&store).await, ["1"]);
    assert_eq!(number(&mut conn, "SELECT COUNT(*) FROM mine").await, 0, "what is not ours stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_schema_is_created_only_when_wanted() {
    let url = database().await;
    let options = Options { create: false, ..Options::from_url(&url).unwrap() };
    let refused = MysqlStore::open(options.clone()).await.err().unwrap();
    assert_eq!(refused.code(), Code::SchemaMissing, "{refused}");
    open(&url).await;
    MysqlStore::open(options).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_needs_a_later_program_is_refused() {
    let url = database().await;
    open(&url).await;
    let mut conn = connect(&url).await;
    execute(&mut conn, "UPDATE onewrite_source SET schema_version = 99, min_compatible = 99").await;
    let refused = MysqlStore::open(Options::from_url(&url).unwrap()).await.err().unwrap();
    assert_eq!(refused.code(), Code::SchemaUnsupported);
    execute(&mut conn, "UPDATE onewrite_source SET min_compatible = 1").await;
    open(&url).await;
}

/// Servers commit each statement of a migration by itself, so a process may end behind one that is not noted.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_was_broken_off_is_made_again() {
    let url = database().await;
    open(&url).await;
    let mut conn = connect(&url).await;
    execute(&mut conn, "UPDATE onewrite_source SET schema_version = 1").await;
    open(&url).await;
    let version = number(&mut conn, "SELECT schema_version FROM onewrite_source").await;
    assert_eq!(version, i64::from(SCHEMA_VERSION));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_of_signals_is_made_anew_wherever_that_was_broken_off() {
    let url = database().await;
    open(&url).await;
    let mut conn = connect(&url).await;
    let index = |name: &str| {
        format!(
            "SELECT COUNT(*) FROM information_schema.statistics WHERE table_schema = DATABASE() AND table_name = 'onewrite_saga_signal' AND index_name = '{name}'"
        )
    };
    let before = "ALTER TABLE onewrite_saga_signal ADD KEY onewrite_saga_signal_free (name, correlation, taken_by, received_at)";
    let drop = "ALTER TABLE onewrite_saga_signal DROP KEY onewrite_saga_signal_open";
    for left in [&[before, drop][..], &[before], &[]] {
        for sql in left {
            execute(&mut conn, sql).await;
        }
        execute(&mut conn, "UPDATE onewrite_source SET schema_version = 4").await;
        open(&url).await;
        assert_eq!(number(&mut conn, &index("onewrite_saga_signal_open")).await, 4, "{left:?}");
        assert_eq!(number(&mut conn, &index("onewrite_saga_signal_free")).await, 0, "{left:?}");
    }
}

/// A dump restored under another name is a copy: it goes on only as a new life, behind what was read.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_refused_until_a_person_says_what_it_is() {
    let server = server::shared_mariadb().await.unwrap();
    let (name, copy) = (server::unique("original"), server::unique("copy"));
    server.create_database(&name).await.unwrap();
    let original = open(&server.url(&name)).await;
    let mut conn = connect(&server.url(&name)).await;
    emit(&mut conn, &event("k", "1")).await.unwrap();
    assert_eq!(log(&original).await, ["1"]);
    server.copy_database(&name, &copy).await.unwrap();
    let options = Options::from_url(&server.url(&copy)).unwrap();
    let refused = MysqlStore::open(options.clone()).await.err().unwrap();
    assert_eq!(refused.code(), Code::StoreCopied, "{refused}");
    let forked = Options { copied: Copied::Fork(None), ..options.clone() };
    let store = MysqlStore::open(forked).await.unwrap();
    let lives = store.source().incarnations;
    assert_eq!(lives.iter().map(|(first, _)| *first).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(lives[0], original.source().incarnations[0]);
    let mut there = connect(&server.url(&copy)).await;
    emit(&mut there, &event("k", "2")).await.unwrap();
    assert_eq!(log(&store).await, ["1", "2"]);
    assert_ne!(store.source().incarnation_at(2), Incarnation::default());
    // Said once.
    MysqlStore::open(options).await.unwrap();
    assert_eq!(log(&original).await, ["1"], "the original is not concerned");
}

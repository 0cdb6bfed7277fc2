//! H4, I14: a database is copied, restored or taken over, and goes on with numbers that its original gives
//! to other events.

use std::{path::PathBuf, process::Command, time::Duration};

use onewrite_core::{Code, Incarnation, sabotage::Defect, store::Copied};
use onewrite_store_postgres::{Options, PostgresStore, tokio_postgres::Client};
use onewrite_testkit::{history::Committed, server};

use crate::{
    conformance::{Place, connect},
    consumer::Consumer,
    rig::{
        Follower, Running, SINK, broken, emit_all, events, execute, is_settled, number, place,
        relaying, sound, until, within,
    },
};

/// The database's identity is a constant, as if copies could not be told: the broken variant.
const BLIND: &str =
    "CREATE OR REPLACE FUNCTION onewrite.place() RETURNS text LANGUAGE sql AS $$ SELECT 'here' $$;
    UPDATE onewrite.source SET place = 'here'";

fn options(url: &str, copied: Copied) -> Options {
    Options { copied, ..Options::from_url(url).unwrap() }
}

async fn refused(url: &str) -> onewrite_core::Error {
    PostgresStore::open(options(url, Copied::Refuse)).await.err().expect("a copy is opened")
}

/// PostgreSQL's program, of the newest version that is installed.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .map(|entry| entry.path())
        .filter_map(|path| {
            Some((path.file_name()?.to_str()?.parse().ok()?, path.join("bin").join(name)))
        })
        .filter(|(_, path)| path.is_file())
        .collect();
    found.sort();
    found.pop().map_or_else(|| name.into(), |(_, path)| path)
}

fn name_of(url: &str) -> &str {
    url.rsplit_once('/').unwrap().1
}

/// Dumps the database of `url` and restores it into another one, whose URL is returned.
async fn restore(url: &str) -> String {
    let output = Command::new(program("pg_dump")).args(["-d", url]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let address = server::shared_postgres().await.unwrap();
    let copy = server::unique("restored");
    address.create_database(&copy).await.unwrap();
    address.psql(&copy, &String::from_utf8(output.stdout).unwrap()).await.unwrap();
    address.url(&copy)
}

/// Copies the database file by file, once nobody uses it.
async fn template(url: &str) -> String {
    let address = server::shared_postgres().await.unwrap();
    let copy = server::unique("twin");
    let sql = format!("CREATE DATABASE {copy} TEMPLATE {}", name_of(url));
    until("the copy", async || address.psql("postgres", &sql).await.is_ok()).await;
    address.url(&copy)
}

async fn emit_plainly(client: &Client, id: &str) {
    let sql = "SELECT onewrite.emit('Thing', 'k0', 'Happened', id => $1)";
    client.execute(sql, &[&id]).await.unwrap();
}

/// The life of each event, in order.
async fn lives(store: &PostgresStore) -> Vec<(String, Incarnation)> {
    let mut follower = Follower::new(store);
    follower.drain(store).await;
    follower.seen.sort_by_key(|record| record.sequence);
    follower.seen.iter().map(|record| (record.id().to_owned(), record.incarnation)).collect()
}

async fn a_copy_is_refused_until_somebody_says_what_it_is(url: String, copy: &str) {
    let error = refused(copy).await;
    assert_eq!(error.code(), Code::StoreCopied, "{error}");
    assert!(error.to_string().contains(name_of(copy)), "{error}");
    assert!(error.code().cure().contains("fork"));
    // A program that knows nothing of this emits before anybody has looked.
    emit_plainly(&connect(copy).await, "early").await;
    assert_eq!(refused(copy).await.code(), Code::StoreCopied, "it is still to be said");
    let store = PostgresStore::open(options(copy, Copied::Fork(None))).await.unwrap();
    emit_plainly(&connect(copy).await, "late").await;
    let found = lives(&store).await;
    let ids: Vec<&str> = found.iter().map(|(id, _)| &**id).collect();
    assert_eq!(ids, ["a0", "a1", "a2", "early", "late"]);
    let (old, early, late) = (found[2].1, found[3].1, found[4].1);
    assert!(old != early && early != late && old != late, "{found:?}");
    // It has its own identity now, and the original keeps its own.
    PostgresStore::open(options(copy, Copied::Refuse)).await.unwrap();
    let original = PostgresStore::open(options(&url, Copied::Refuse)).await.unwrap();
    emit_plainly(&connect(&url).await, "original").await;
    assert!(lives(&original).await.iter().all(|(_, life)| *life == old));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_dump_is_told_from_its_original() {
    let place = place(1).await;
    emit_all(&place.store().await, events("a", 3, 1)).await;
    let copy = restore(&place.url).await;
    a_copy_is_refused_until_somebody_says_what_it_is(place.url.clone(), &copy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_database_is_told_from_its_original() {
    let place = place(1).await;
    emit_all(&place.store().await, events("a", 3, 1)).await;
    let copy = template(&place.url).await;
    a_copy_is_refused_until_somebody_says_what_it_is(place.url.clone(), &copy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_behind_a_sequence_gives_all_that_follows_a_new_life() {
    let place = place(1).await;
    emit_all(&place.store().await, events("a", 3, 1)).await;
    let copy = restore(&place.url).await;
    let client = connect(&copy).await;
    emit_plainly(&client, "early").await;
    let since =
        number(&client, "SELECT sequence FROM onewrite.log WHERE id = 'a2'").await.cast_unsigned();
    let beyond =
        PostgresStore::open(options(&copy, Copied::Fork(Some(9_999)))).await.err().unwrap();
    assert_eq!(beyond.code(), Code::InvalidInput);
    let store = PostgresStore::open(options(&copy, Copied::Fork(Some(since)))).await.unwrap();
    emit_plainly(&client, "late").await;
    let found = lives(&store).await;
    assert!(found[2].1 != found[3].1 && found[3].1 == found[4].1, "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_database_is_adopted_and_a_working_one_is_not_forked() {
    let place = place(1).await;
    emit_all(&place.store().await, events("a", 3, 1)).await;
    let copy = restore(&place.url).await;
    let client = connect(&copy).await;
    execute(
        &client,
        "INSERT INTO onewrite.member VALUES ('relay/x', 'somebody', clock_timestamp() + '1 hour')",
    )
    .await;
    let busy = PostgresStore::open(options(&copy, Copied::Fork(None))).await.err().unwrap();
    assert_eq!(busy.code(), Code::UnsafeSetting, "{busy}");
    PostgresStore::open(options(&copy, Copied::Adopt)).await.unwrap();
    PostgresStore::open(options(&copy, Copied::Refuse)).await.unwrap();
}

/// What two sources of one name committed, by their events' prefixes.
fn committed(prefixes: &[(&str, usize)]) -> Committed {
    let mut committed = Committed::default();
    for (prefix, count) in prefixes {
        (0..*count).for_each(|n| committed.push("k0", format!("{prefix}{n}")));
    }
    committed
}

async fn deliver(
    store: &PostgresStore,
    consumer: &Consumer,
    sabotage: onewrite_core::sabotage::Sabotage,
) -> bool {
    let (sink, receiver) = consumer.receive_well();
    let relay = Running::relay(store, sink, relaying(SINK, sabotage), "one");
    // Either it gets to the end, or it sees what is wrong and stays where it is.
    let done = within(Duration::from_secs(5), async || is_settled(store, SINK).await).await;
    relay.stop().await;
    receiver.stop().await;
    done
}

/// Both sides of a copy give the same numbers to different events, and one receiver gets both.
async fn write_to_both(
    place: Place,
    sabotage: onewrite_core::sabotage::Sabotage,
    copied: Copied,
) -> u64 {
    let consumer = Consumer::new().await;
    let store = place.store().await;
    emit_all(&store, events("a", 3, 1)).await;
    assert!(deliver(&store, &consumer, sound()).await);
    let copy = restore(&place.url).await;
    emit_all(&store, events("original", 3, 1)).await;
    assert!(deliver(&store, &consumer, sound()).await);
    let source = Options { source: None, sabotage, ..options(&copy, copied) };
    let twin = PostgresStore::open(source).await.unwrap();
    emit_all(&twin, events("twin", 3, 1)).await;
    deliver(&twin, &consumer, sabotage).await;
    let all = committed(&[("a", 3), ("original", 3), ("twin", 3)]);
    let verdict = consumer.verdict(&all).await;
    assert_eq!((verdict.duplicated.count, verdict.phantom.count), (0, 0), "{verdict}");
    verdict.lost.count
}

#[tokio::test(flavor = "multi_thread")]
async fn the_receiver_of_both_sides_misses_nothing() {
    assert_eq!(write_to_both(place(1).await, sound(), Copied::Fork(None)).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_new_life_the_copys_events_are_lost() {
    let place = place(1).await;
    let _store = place.store().await;
    execute(&place.connect().await, BLIND).await;
    let lost = write_to_both(place, broken(Defect::NoIncarnation), Copied::Refuse).await;
    assert!(lost > 0, "nothing noticed");
}

/// A standby without the tail that its primary had delivered becomes the primary.
async fn fail_over(is_blind: bool) -> u64 {
    let consumer = Consumer::new().await;
    let primary = server::Postgres::start().await.unwrap();
    primary.create_database("shop").await.unwrap();
    let mut first = options(&primary.url("shop"), Copied::Refuse);
    first.partitions = 1;
    let store = PostgresStore::open(first).await.unwrap();
    if is_blind {
        execute(&connect(&primary.url("shop")).await, BLIND).await;
    }
    emit_all(&store, events("a", 3, 1)).await;
    assert!(deliver(&store, &consumer, sound()).await);
    let standby = primary.standby().await.unwrap();
    cut_off(&primary, &standby).await;
    // More than the numbers that the standby knows to be taken.
    emit_all(&store, events("lost", 50, 1)).await;
    assert!(deliver(&store, &consumer, sound()).await);
    drop(store);
    primary.kill();
    standby.promote().await.unwrap();
    let client = connect(&standby.url("shop")).await;
    emit_plainly(&client, "new0").await;
    let known = number(&client, "SELECT count(*) FROM onewrite.incarnation").await;
    assert_eq!(known, if is_blind { 1 } else { 2 }, "before any program of ours has looked");
    // The same cluster: nobody has to say anything.
    let store = PostgresStore::open(options(&standby.url("shop"), Copied::Refuse)).await.unwrap();
    emit_all(&store, events("new", 3, 1).split_off(1)).await;
    let sabotage = if is_blind { broken(Defect::NoIncarnation) } else { sound() };
    deliver(&store, &consumer, sabotage).await;
    let all = committed(&[("a", 3), ("lost", 50), ("new", 3)]);
    let verdict = consumer.verdict(&all).await;
    assert_eq!((verdict.duplicated.count, verdict.phantom.count), (0, 0), "{verdict}");
    verdict.lost.count
}

/// Waits until the standby has all there is.
async fn caught_up(primary: &server::Postgres, standby: &server::Postgres) {
    let end = primary.psql("postgres", "SELECT pg_current_wal_lsn()").await.unwrap();
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", end.trim());
    until("the standby follows", async || {
        standby.psql("postgres", &replayed).await.unwrap() == "t\n"
    })
    .await;
}

/// Sees to it that the standby gets no more than it has now.
async fn cut_off(primary: &server::Postgres, standby: &server::Postgres) {
    caught_up(primary, standby).await;
    let cut = "ALTER SYSTEM SET primary_conninfo = ''; SELECT pg_reload_conf()";
    standby.psql("postgres", cut).await.unwrap();
    let receivers = "SELECT count(*) FROM pg_stat_wal_receiver";
    until("the cut", async || standby.psql("postgres", receivers).await.unwrap() == "0\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_says_that_it_is_read_only() {
    let primary = server::Postgres::start().await.unwrap();
    primary.create_database("shop").await.unwrap();
    PostgresStore::open(options(&primary.url("shop"), Copied::Refuse)).await.unwrap();
    let standby = primary.standby().await.unwrap();
    caught_up(&primary, &standby).await;
    let error = PostgresStore::open(options(&standby.url("shop"), Copied::Refuse)).await.err();
    assert_eq!(error.map(|error| error.code()), Some(Code::ReadOnly), "a standby");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_begins_a_new_life_and_loses_nothing_of_its_own() {
    assert_eq!(fail_over(false).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_that_does_not_know_loses_events() {
    assert!(fail_over(true).await > 0, "nothing noticed");
}

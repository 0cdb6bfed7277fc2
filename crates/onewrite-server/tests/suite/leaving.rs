//! How a demo ends: what it leaves behind, what it says and with which code, whatever went wrong.

use std::{
    fs::OpenOptions,
    process::{Command, Stdio},
};

use onewrite::sqlite::rusqlite::{Connection, TransactionBehavior};
use onewrite_testkit::server::{Nats, Postgres};
use rustix::process::Signal;
use tokio::task::block_in_place;

use crate::{
    demo::verdict,
    support::{Place, Run, Running, eventually, open},
};

/// A demo whose folder is the only thing in `place`.
fn demo(place: &Place, args: &[&str]) -> Command {
    let mut command = place.command(&[&["demo"], args].concat());
    command.env("TMPDIR", place.root());
    command
}

fn left(place: &Place) -> usize {
    std::fs::read_dir(place.root()).unwrap().count()
}

/// The database of the order service, once it has taken an order.
fn orders(place: &Place) -> Connection {
    let mut found = None;
    eventually("an order is placed", || {
        let mut folders = std::fs::read_dir(place.root()).unwrap().filter_map(Result::ok);
        let path = folders.next().map(|folder| folder.path().join("order.db"));
        let Some(path) = path.filter(|path| path.exists()) else { return false };
        let database = open(&path);
        let placed: i64 =
            database.query_row("SELECT count(*) FROM orders", [], |row| row.get(0)).unwrap_or(0);
        found = Some(database);
        placed > 0
    });
    found.unwrap()
}

#[test]
fn a_demo_whose_output_nobody_reads_leaves_nothing_behind() {
    let place = Place::new();
    let mut command = demo(&place, &["--orders", "5", "--chaos", "0"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!((ended.status.code(), &*said, left(&place)), (Some(0), "", 0));
}

#[test]
fn a_demo_whose_output_cannot_be_written_says_so_and_leaves_nothing_behind() {
    let place = Place::new();
    let mut command = demo(&place, &["--orders", "5", "--chaos", "0"]);
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ended = command.stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let ended = ended.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.contains("standard output cannot be written"), "{said}");
    assert_eq!((ended.status.code(), left(&place)), (Some(1), 0), "{said}");
}

#[test]
fn a_demo_whose_log_cannot_be_written_goes_on() {
    let place = Place::new();
    let mut command = demo(&place, &["--orders", "20", "--chaos", "2", "--json"]);
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    command.env("ONEWRITE_LOG", "debug").stderr(full).stdout(Stdio::piped());
    let ended = command.spawn().unwrap().wait_with_output().unwrap();
    let out = String::from_utf8(ended.stdout).unwrap();
    let run = Run { code: ended.status.code(), out, err: String::new() };
    crate::demo::is_clean(&run, 2);
}

#[test]
fn a_store_that_takes_no_more_orders_is_waited_for_with_patience() {
    let place = Place::new();
    let flags = ["--orders", "20000", "--chaos", "0", "--patience-s", "1", "--json"];
    let demo = Running::of(demo(&place, &flags));
    let mut database = orders(&place);
    let lock = database.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let run = demo.end();
    drop(lock);
    assert_eq!(run.code, Some(1), "{run:?}");
    let found = verdict(&run);
    assert!(found["acknowledged"].as_u64() < found["placed"].as_u64(), "{found}");
    assert!(run.err.contains("of 20000 acknowledged"), "{run:?}");
}

/// What runs of the demo have at a server.
const DATABASES: &str = "SELECT count(*) FROM pg_database WHERE datname LIKE 'onewrite_demo_%'";

/// Waits until the shop takes orders.
async fn begun(postgres: &Postgres) {
    let name = "SELECT datname FROM pg_database WHERE datname LIKE 'onewrite_demo_%_order'";
    loop {
        let name = postgres.psql("postgres", name).await.unwrap().trim().to_owned();
        let orders = "SELECT count(*) > 0 FROM orders";
        // There is no such database, or no such table, at first.
        if !name.is_empty() && postgres.psql(&name, orders).await.is_ok_and(|is| is == "t\n") {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_server_keeps_of_a_demo_is_named() {
    let (postgres, nats) = (Postgres::start().await.unwrap(), Nats::start().await.unwrap());
    let (store, broker, place) = (postgres.url("postgres"), nats.url(), Place::new());
    let flags = ["--orders", "100000", "--patience-s", "1", "--store", &store, "--broker", &broker];
    let demo = Running::of(demo(&place, &flags));
    begun(&postgres).await;
    postgres.stop().await.unwrap();
    nats.stop().await.unwrap();
    let run = block_in_place(|| demo.end());
    run.refused("OW0002", &[" service: connect to PostgreSQL", "the server cannot be reached"]);
    let lines = |word: &str| run.err.lines().filter(|line| line.contains(word)).count();
    assert_eq!((lines("  DROP DATABASE onewrite_demo_"), lines("  nats stream rm ")), (4, 4));
    assert_eq!(left(&place), 0, "the folder goes all the same: {run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_keeps_its_code_when_a_server_is_lost() {
    let (postgres, place) = (Postgres::start().await.unwrap(), Place::new());
    let store = postgres.url("postgres");
    let demo = Running::of(demo(&place, &["--orders", "100000", "--store", &store]));
    begun(&postgres).await;
    postgres.stop().await.unwrap();
    demo.signal(Signal::INT);
    let run = block_in_place(|| demo.end());
    assert_eq!(run.code, Some(130), "{run:?}");
    assert!(run.err.contains("interrupted") && run.err.contains("  DROP DATABASE "), "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_is_waited_for() {
    let (postgres, place) = (Postgres::start().await.unwrap(), Place::new());
    let store = postgres.url("postgres");
    let flags = ["--orders", "400", "--chaos", "2", "--store", &store, "--json"];
    let demo = Running::of(demo(&place, &flags));
    begun(&postgres).await;
    postgres.restart().await.unwrap();
    let run = block_in_place(|| demo.end());
    crate::demo::is_clean(&run, 2);
    assert_eq!(postgres.psql("postgres", DATABASES).await.unwrap().trim(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_that_are_kept_are_named_with_how_they_go() {
    let (postgres, place) = (Postgres::start().await.unwrap(), Place::new());
    let store = postgres.url("postgres");
    let flags = ["demo", "--orders", "5", "--chaos", "0", "--dir", "kept", "--store", &store];
    let run = block_in_place(|| place.run(&flags)).ok();
    assert!(run.err.contains("making 4 databases"), "{run:?}");
    let drops = run.err.lines().filter_map(|line| line.strip_prefix("  DROP DATABASE "));
    let drops: Vec<_> = drops.collect();
    assert_eq!(drops.len(), 4, "{run:?}");
    for name in drops {
        postgres.psql("postgres", &format!("DROP DATABASE {name}")).await.unwrap();
    }
    assert_eq!(postgres.psql("postgres", DATABASES).await.unwrap().trim(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_make_databases_is_told_the_right() {
    let (postgres, place) = (Postgres::start().await.unwrap(), Place::new());
    postgres.psql("postgres", "CREATE ROLE poor LOGIN PASSWORD 'secret'").await.unwrap();
    let server = postgres.url("postgres");
    let store = |user: &str| format!("postgres://{user}@{}", server.split_once('@').unwrap().1);
    let run = |user: &str| {
        let store = store(user);
        block_in_place(|| place.run(&["demo", "--orders", "5", "--store", &store]))
    };
    run("poor:secret").refused("OW0029", &["CREATEDB"]);
    run("poor:guess").refused("OW0002", &["user or password are wrong", "127.0.0.1:"]);
    run("poor").refused("OW0002", &["the server asks for a password"]);
}

//! H14: a reader that sleeps is woken, by a notification that is sent only while somebody sleeps.

use std::time::{Duration, Instant};

use onewrite_core::store::{Store as _, Watch};
use onewrite_store_postgres::{
    PostgresStore, emit_at_once,
    tokio_postgres::{AsyncMessage, Client, NoTls},
};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    conformance::Place,
    rig::{Follower, PATIENCE, emit_all, event, execute, number, place, until},
};

/// Longer than any test waits: who wakes before it was woken.
const LONG: Duration = Duration::from_secs(600);

/// For how many microseconds the sign still stands.
const SIGN: &str = "SELECT greatest(last_value - (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, 0) FROM onewrite.asleep";
const LISTENERS: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND query = 'LISTEN onewrite'";
const EMIT: &str = "SELECT onewrite.emit('Thing', 'k', 'Happened')";

/// A watch that has told its reader all there was to tell.
async fn rested(store: &PostgresStore) -> Box<dyn Watch> {
    let mut watch = store.watch();
    for _ in 0..2 {
        watch.changed(Duration::from_millis(1)).await;
    }
    watch
}

/// Sleeps on `watch`, and says for how long.
async fn sleep(
    mut watch: Box<dyn Watch>,
    within: Duration,
    observer: &Client,
) -> JoinHandle<Duration> {
    let began = Instant::now();
    let task = tokio::spawn(async move {
        watch.changed(within).await;
        began.elapsed()
    });
    until("the sign", async || number(observer, SIGN).await > 100_000).await;
    task
}

async fn woken(sleeper: JoinHandle<Duration>) {
    let slept = tokio::time::timeout(PATIENCE, sleeper).await;
    slept.expect("the sleeper was not woken").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_wakes_who_sleeps() {
    let place = place(4).await;
    let (store, client) = (place.store().await, place.connect().await);
    for _ in 0..3 {
        let sleeper = sleep(rested(&store).await, LONG, &client).await;
        execute(&client, EMIT).await;
        woken(sleeper).await;
        assert_eq!(number(&client, SIGN).await, 0, "the sign is taken down");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_does_not_notify_is_noticed_by_the_poll_alone() {
    let place = place(4).await;
    let (store, client) = (place.store().await, place.connect().await);
    let poll = Duration::from_secs(1);
    let sleeper = sleep(rested(&store).await, poll, &client).await;
    execute(&client, "SET onewrite.notify = off").await;
    execute(&client, EMIT).await;
    let slept = sleeper.await.unwrap();
    assert!(slept >= poll, "it was woken after {slept:?} though nobody notified");
    let mut follower = Follower::new(&store);
    follower.drain(&store).await;
    assert_eq!(follower.seen.len(), 1, "and it is there");
}

/// Reads and sleeps in turn until there is something.
async fn read_on(store: PostgresStore) -> usize {
    let (mut follower, mut watch) = (Follower::new(&store), store.watch());
    loop {
        follower.drain(&store).await;
        if !follower.seen.is_empty() {
            return follower.seen.len();
        }
        watch.changed(LONG).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_looked_at_the_sign_too_early_is_waited_for() {
    let place = place(4).await;
    let store = place.store().await;
    let (mut writer, client) = (place.connect().await, place.connect().await);
    let tx = writer.transaction().await.unwrap();
    // Nobody sleeps yet, so its commit will notify nobody.
    emit_at_once(&tx, &event("k", "early")).await.unwrap();
    let reader = tokio::spawn(read_on(store.clone()));
    until("the sign", async || number(&client, SIGN).await > 0).await;
    tx.commit().await.unwrap();
    let noticed = tokio::time::timeout(PATIENCE, reader).await;
    assert_eq!(noticed.expect("the event was not noticed").unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_of_the_listening_connection_loses_nothing_and_heals() {
    let place = place(4).await;
    let (store, client) = (place.store().await, place.connect().await);
    let mut follower = Follower::new(&store);
    let mut watch = rested(&store).await;
    for round in 0..3 {
        until("a listener", async || {
            watch.changed(Duration::from_millis(1)).await;
            number(&client, LISTENERS).await == 1
        })
        .await;
        let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE datname = current_database() AND query = 'LISTEN onewrite'";
        assert_eq!(number(&client, cut).await, 1);
        until("the cut", async || number(&client, LISTENERS).await == 0).await;
        execute(&client, EMIT).await;
        follower.drain(&store).await;
        assert_eq!(follower.seen.len(), 2 * round + 1, "nothing is lost");
        // It listens again, and is woken again.
        let sleeper = sleep(rested(&store).await, LONG, &client).await;
        until("the sleeper's connection", async || number(&client, LISTENERS).await == 1).await;
        execute(&client, EMIT).await;
        woken(sleeper).await;
        follower.drain(&store).await;
        assert_eq!(follower.seen.len(), 2 * round + 2);
    }
}

/// Counts notifications up to the one that this sends itself.
struct Ear {
    client: Client,
    heard: mpsc::UnboundedReceiver<String>,
}

impl Ear {
    async fn new(place: &Place) -> Self {
        use onewrite_store_postgres::tokio_postgres;
        let (client, mut connection) = tokio_postgres::connect(&place.url, NoTls).await.unwrap();
        let (tell, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) =
                std::future::poll_fn(|cx| connection.poll_message(cx)).await
            {
                if let AsyncMessage::Notification(note) = message {
                    let _ = tell.send(note.payload().to_owned());
                }
            }
        });
        execute(&client, "LISTEN onewrite").await;
        Self { client, heard }
    }

    async fn count(&mut self) -> usize {
        execute(&self.client, "NOTIFY onewrite, 'end'").await;
        let mut count = 0;
        while self.heard.recv().await.unwrap() != "end" {
            count += 1;
        }
        count
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_notified_while_nobody_sleeps() {
    let place = place(4).await;
    let (store, client) = (place.store().await, place.connect().await);
    let mut ear = Ear::new(&place).await;
    emit_all(&store, (0..20).map(|n| event(format!("k{n}"), format!("{n}")))).await;
    execute(&client, &[EMIT; 20].join(";")).await;
    assert_eq!(ear.count().await, 0, "notifications without a sleeper");
    // The control: with one, they are counted.
    let sleeper = sleep(rested(&store).await, LONG, &client).await;
    execute(&client, EMIT).await;
    woken(sleeper).await;
    assert!(ear.count().await > 0, "the counter hears nothing");
    execute(&client, EMIT).await;
    assert_eq!(ear.count().await, 0, "the sign is left up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_event_wakes_nobody() {
    let place = place(4).await;
    let (store, client) = (place.store().await, place.connect().await);
    let mut ear = Ear::new(&place).await;
    let sleeper = sleep(rested(&store).await, LONG, &client).await;
    execute(&client, &format!("BEGIN; {EMIT}; SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK")).await;
    assert_eq!(ear.count().await, 0);
    execute(&client, EMIT).await;
    woken(sleeper).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeper_is_woken_although_another_has_woken_before() {
    let place = place(4).await;
    let (store, other) = (place.store().await, place.store().await);
    let client = place.connect().await;
    let long = sleep(rested(&store).await, LONG, &client).await;
    let sign = number(&client, SIGN).await;
    let mut short = rested(&other).await;
    // It puts its own sign over the other's, and takes it down by itself.
    let brief = tokio::spawn(async move { short.changed(Duration::from_millis(200)).await });
    brief.await.unwrap();
    execute(&client, EMIT).await;
    assert!(sign > 0);
    woken(long).await;
}

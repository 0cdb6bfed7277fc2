//! Placing: by one at a time, and on disk before it is delivered. With what does so taken out, the same is noticed.

use std::sync::Arc;

use mysql_async::Conn;
use onewrite_core::{
    Code, Result,
    position::partition_of,
    sabotage::{Defect, Sabotage},
};
use onewrite_store_mysql::{MysqlStore, emit, mysql_async};
use onewrite_testkit::server::Mariadb;

use crate::rig::{Follower, connect, event, execute, log, number, open, open_broken, until};

fn broken(defect: Defect) -> Sabotage {
    Sabotage::default().with(defect)
}

/// What a store reads from the beginning.
async fn read(store: &MysqlStore) -> Result<Vec<String>> {
    let mut follower = Follower::new(store);
    while follower.step(store).await? {}
    Ok(follower.ids)
}

/// Whether somebody else runs a statement like this in this connection's database. What it needs is locked, so
/// it waits.
async fn runs(conn: &mut Conn, statement: &str) -> bool {
    let running = format!(
        "SELECT COUNT(*) FROM information_schema.processlist
         WHERE db = DATABASE() AND id <> CONNECTION_ID() AND info LIKE '{statement}'"
    );
    number(conn, &running).await > 0
}

const PLACES: &str = "SELECT sequence, @@server_id%FOR UPDATE%";
const SYNCS: &str = "UPDATE onewrite_flush%";

/// Begins to place the one event that waits, as another process would.
async fn begin_placing(conn: &mut Conn) {
    execute(conn, "START TRANSACTION; SELECT sequence FROM onewrite_counter FOR UPDATE").await;
}

async fn place_by_hand(conn: &mut Conn) {
    let partition = partition_of("k", 4);
    let columns = "time, id, type, aggregatetype, aggregateid, `key`, content_type, schema_version";
    let place = format!(
        "INSERT INTO onewrite_log (sequence, `partition`, placed_at, {columns})
            SELECT 1, {partition}, entered_at, {columns} FROM onewrite_outbox;
         DELETE FROM onewrite_outbox;
         UPDATE onewrite_counter SET sequence = 1"
    );
    execute(conn, &place).await;
}

/// A server that does not sync for a while: what is committed meanwhile is seen, and not on disk.
struct Lazy {
    server: Arc<Mariadb>,
    url: String,
    admin: Conn,
}

impl Lazy {
    async fn start() -> Self {
        let never = "--innodb-flush-log-at-timeout=2700";
        let server = Arc::new(Mariadb::start_with(&[never]).await.unwrap());
        server.address().create_database("lazy").await.unwrap();
        let url = server.address().url("lazy");
        open(&url).await;
        let admin = connect(&url).await;
        Self { server, url, admin }
    }

    async fn sync(&mut self, syncs: bool) {
        let setting = format!("SET GLOBAL innodb_flush_log_at_trx_commit = {}", u8::from(syncs));
        execute(&mut self.admin, &setting).await;
    }

    /// Whether a crash now undoes what was read.
    async fn undoes(self, read: &[String]) -> bool {
        let server = Arc::clone(&self.server);
        tokio::task::spawn_blocking(move || server.kill()).await.unwrap();
        self.server.restart().await.unwrap();
        let left = log(&open(&self.url).await).await;
        read.iter().any(|id| !left.contains(id))
    }
}

/// One process places what is committed and seen, and not on disk; another reads it. Whether a crash undoes it.
async fn read_what_another_placed(sabotage: Sabotage) -> bool {
    let mut lazy = Lazy::start().await;
    let (one, other) = (open(&lazy.url).await, open_broken(&lazy.url, sabotage).await);
    lazy.sync(false).await;
    emit(&mut lazy.admin, &event("k", "e")).await.unwrap();
    assert_eq!(read(&one).await.unwrap(), ["e"]);
    lazy.sync(true).await;
    let seen = read(&other).await.unwrap();
    assert_eq!(seen, ["e"]);
    lazy.undoes(&seen).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_process_placed_is_on_disk_before_it_is_delivered() {
    assert!(!read_what_another_placed(Sabotage::default()).await, "it was delivered and is undone");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_delivered_without_a_sync_is_undone_by_a_crash() {
    assert!(read_what_another_placed(broken(Defect::DeliverUnsynced)).await, "nothing noticed");
}

/// A process finds something to place and waits for its turn; when that comes, another has placed it. Whether a
/// crash undoes what the first one then reads.
async fn read_what_another_placed_meanwhile(sabotage: Sabotage) -> bool {
    let mut lazy = Lazy::start().await;
    let store = open_broken(&lazy.url, sabotage).await;
    let (mut placing, mut holding) = (connect(&lazy.url).await, connect(&lazy.url).await);
    lazy.sync(false).await;
    emit(&mut lazy.admin, &event("k", "e")).await.unwrap();
    begin_placing(&mut placing).await;
    // Whoever brings something to the disk waits here, until commits are synced again.
    execute(&mut holding, "START TRANSACTION; SELECT n FROM onewrite_flush FOR UPDATE").await;
    let reading = tokio::spawn(async move { read(&store).await });
    until("it waits for its turn", async || runs(&mut lazy.admin, PLACES).await).await;
    place_by_hand(&mut placing).await;
    execute(&mut placing, "COMMIT").await;
    until("it has read, or is about to sync", async || {
        reading.is_finished() || runs(&mut lazy.admin, SYNCS).await
    })
    .await;
    lazy.sync(true).await;
    execute(&mut holding, "ROLLBACK").await;
    let seen = reading.await.unwrap().unwrap();
    assert_eq!(seen, ["e"]);
    lazy.undoes(&seen).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placing_that_found_nothing_is_no_proof_that_what_another_placed_is_on_disk() {
    let undone = read_what_another_placed_meanwhile(Sabotage::default()).await;
    assert!(!undone, "it was delivered and is undone");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_an_empty_placing_for_a_sync_delivers_what_a_crash_undoes() {
    let undone = read_what_another_placed_meanwhile(broken(Defect::TrustEmptyPlacing)).await;
    assert!(undone, "nothing noticed");
}

/// Reads while another process is in the middle of placing the same event.
async fn place_at_the_same_time(sabotage: Sabotage) -> Result<Vec<String>> {
    // A server of its own: whoever waits for a row there is the reader.
    let server = Mariadb::start().await.unwrap();
    server.address().create_database("place").await.unwrap();
    let url = server.address().url("place");
    let store = open_broken(&url, sabotage).await;
    let (mut conn, mut placing) = (connect(&url).await, connect(&url).await);
    emit(&mut conn, &event("k", "e")).await.unwrap();
    begin_placing(&mut placing).await;
    place_by_hand(&mut placing).await;
    let reading = tokio::spawn(async move { read(&store).await });
    let waits = "SELECT CAST(variable_value AS SIGNED) FROM information_schema.global_status
        WHERE variable_name = 'INNODB_ROW_LOCK_CURRENT_WAITS'";
    until("it waits for the other", async || number(&mut conn, waits).await > 0).await;
    execute(&mut placing, "COMMIT").await;
    reading.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_at_a_time_places() {
    assert_eq!(place_at_the_same_time(Sabotage::default()).await.unwrap(), ["e"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_place_at_once_draw_the_same_number() {
    let refused = place_at_the_same_time(broken(Defect::PlaceUnlocked)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Database);
    assert!(refused.to_string().contains("Duplicate entry '1'"), "{refused}");
}

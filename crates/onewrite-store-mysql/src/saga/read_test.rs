//! What is read to find what is due, on a real server.

use onewrite_testkit::server;

use super::*;
use crate::{MysqlStore, Options, row::now};

/// A connection to a database with a schema.
pub(crate) async fn database() -> Conn {
    let server = server::shared_mariadb().await.unwrap();
    let name = server::unique("plan");
    server.create_database(&name).await.unwrap();
    let options = Options::from_url(&server.url(&name)).unwrap();
    MysqlStore::open(options.clone()).await.unwrap();
    options.connect().await.unwrap()
}

/// For each table of a plan, how many bytes of which index are compared, and how it is gone through.
pub(crate) async fn plan(conn: &mut Conn, sql: &str, binds: Params) -> Vec<[String; 4]> {
    let rows: Vec<Row> = conn.exec(format!("EXPLAIN {sql}"), binds).await.unwrap();
    let column = |row: &Row, name: &str| row.get::<Option<String>, _>(name).flatten();
    let all = |row: Row| {
        ["table", "type", "key", "key_len"].map(|name| column(&row, name).unwrap_or_default())
    };
    rows.into_iter().map(all).collect()
}

/// Thousands that wait, some for a signal, and half of all have ended.
pub(crate) async fn fill(conn: &mut Conn) {
    let all = concat!(
        "INSERT INTO onewrite_saga SELECT UNHEX(MD5(seq)), 'order', seq, 0, seq % 4, 'order@1', '{}',
             IF(seq % 2, 'running', 'completed'), IF(seq % 2, IF(seq % 4 = 1, 'timer', 'signal'), 'nothing'),
             IF(seq % 2, ",
        began!(),
        " + 3600000000, NULL), NULL, 1, IF(seq % 2, NULL, 2), NULL FROM seq_1_to_10000"
    );
    conn.query_drop(all).await.unwrap();
    conn.query_drop("ANALYZE TABLE onewrite_saga").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_is_found_by_its_index() {
    let mut conn = database().await;
    fill(&mut conn).await;
    let (due, binds) =
        which(&FindSagas::Due { also_signals: true, partitions: vec![0, 1], limit: 100 });
    let plan = plan(&mut conn, &format!("{COLUMNS}{due}"), binds).await;
    // The partition's 4 bytes, 66 of what it waits for, and 9 of when it is due.
    assert_eq!(plan, [["onewrite_saga", "range", "onewrite_saga_open", "79"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_as_late_in_every_time_zone() {
    let mut conn = database().await;
    for zone in ["+13:00", "-12:00", "+00:00"] {
        conn.query_drop(format!("SET time_zone = '{zone}'")).await.unwrap();
        let ago = concat!("SELECT ", now!(), " - ", began!());
        let ago: i64 = conn.query_first(ago).await.unwrap().unwrap();
        assert!((0..10_000_000).contains(&ago), "{zone}: {ago} µs");
    }
}

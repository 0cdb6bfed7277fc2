//! The procedures for programs in other languages.

use mysql_async::{Conn, prelude::Queryable as _};
use onewrite_store_mysql::mysql_async;

use crate::rig::{connect, database, execute, number, open};

/// Calls the procedure within a transaction of its own; what it says, or the SQLSTATE.
async fn receive(
    conn: &mut Conn,
    id: &str,
    sequence: i64,
    previous: Option<i64>,
) -> Result<i64, String> {
    execute(conn, "START TRANSACTION").await;
    let call = "CALL onewrite_receive('mail', 'shop', ?, '0000000000000007', 3, ?, ?, @is_new)";
    if let Err(error) = conn.exec_drop(call, (id, sequence, previous)).await {
        execute(conn, "ROLLBACK").await;
        let mysql_async::Error::Server(error) = error else { panic!("{error}") };
        return Err(error.state);
    }
    let is_new = number(conn, "SELECT @is_new").await;
    execute(conn, "COMMIT").await;
    Ok(is_new)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_decides_for_what_comes_in_order_and_the_id_for_the_rest() {
    let url = database().await;
    open(&url).await;
    let mut conn = connect(&url).await;
    let conn = &mut conn;
    assert_eq!(receive(conn, "1", 1, Some(0)).await, Ok(1));
    assert_eq!(receive(conn, "1", 1, Some(0)).await, Ok(0), "a repeat");
    assert_eq!(receive(conn, "5", 5, Some(4)).await, Err("OW017".into()), "a gap");
    assert_eq!(receive(conn, "4", 4, Some(1)).await, Ok(1), "a hole is none");
    assert_eq!(receive(conn, "other", 4, Some(1)).await, Err("OW013".into()), "went back in time");
    assert_eq!(receive(conn, "foreign", 0, None).await, Ok(1));
    assert_eq!(receive(conn, "foreign", 0, None).await, Ok(0));
    assert_eq!(receive(conn, "2", 2, None).await, Ok(1), "re-driven, below the mark");
    let gap = "gap-0000000000000007-3-9";
    assert_eq!(receive(conn, gap, 9, Some(4)).await, Err("OW017".into()), "records are gone");
    assert_eq!(number(conn, "SELECT sequence FROM onewrite_inbox").await, 4);
    assert_eq!(number(conn, "SELECT redriven FROM onewrite_inbox").await, 2);
    execute(conn, "CALL onewrite_forget('mail', 3600)").await;
    assert_eq!(receive(conn, "foreign", 0, None).await, Ok(0));
    execute(conn, "CALL onewrite_forget('mail', -1)").await;
    assert_eq!(receive(conn, "foreign", 0, None).await, Ok(1));
}

/// Two at the same time: the second waits, and then knows.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_that_receive_at_once_is_told_that_it_is_new() {
    let url = database().await;
    open(&url).await;
    for n in 1..20 {
        let (mut one, mut other) = (connect(&url).await, connect(&url).await);
        let id = n.to_string();
        let (left, right) = tokio::join!(
            receive(&mut one, &id, n, Some(n - 1)),
            receive(&mut other, &id, n, Some(n - 1))
        );
        assert_eq!(left.unwrap() + right.unwrap(), 1, "event {n}");
    }
}

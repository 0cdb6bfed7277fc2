//! H6: the events of a key are placed in the order in which their transactions commit.

use std::collections::HashMap;

use mysql_async::prelude::Queryable as _;
use onewrite_core::Code;
use onewrite_store_mysql::{emit, emit_all, mysql_async};
use tokio::task::JoinSet;

use crate::rig::{Follower, connect, database, event, execute, log, number, open, until};

/// Who emits second waits, whoever began first and whatever snapshot it has.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_key_follow_the_commits_at_every_isolation() {
    for isolation in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let url = database().await;
        let store = open(&url).await;
        let (mut first, mut second) = (connect(&url).await, connect(&url).await);
        for conn in [&mut first, &mut second] {
            execute(conn, &format!("SET SESSION TRANSACTION ISOLATION LEVEL {isolation}")).await;
        }
        // The second has its snapshot before the first does anything.
        execute(&mut second, "START TRANSACTION; SELECT COUNT(*) FROM onewrite_log").await;
        execute(&mut first, "START TRANSACTION").await;
        emit(&mut first, &event("k", "first")).await.unwrap();
        let waiting = tokio::spawn(async move {
            emit(&mut second, &event("k", "second")).await.unwrap();
            execute(&mut second, "COMMIT").await;
        });
        let mut watcher = connect(&url).await;
        let waits = "SELECT CAST(variable_value AS SIGNED) FROM information_schema.global_status
            WHERE variable_name = 'INNODB_ROW_LOCK_CURRENT_WAITS'";
        until("the second waits", async || number(&mut watcher, waits).await > 0).await;
        assert!(log(&store).await.is_empty(), "{isolation}: something is seen before its commit");
        execute(&mut first, "COMMIT").await;
        waiting.await.unwrap();
        assert_eq!(log(&store).await, ["first", "second"], "{isolation}");
    }
}

/// What the lock is for: without it the second commits first and is placed second.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_keys_lock_the_order_is_not_that_of_the_commits() {
    let url = database().await;
    let store = open(&url).await;
    let (mut first, mut second) = (connect(&url).await, connect(&url).await);
    execute(&mut first, "DROP TRIGGER onewrite_outbox_enters").await;
    let unlocked =
        "CREATE TRIGGER onewrite_outbox_enters BEFORE INSERT ON onewrite_outbox FOR EACH ROW
        SET NEW.entered = UUID_SHORT(), NEW.entered_at = 1, NEW.time = 1";
    execute(&mut first, unlocked).await;
    execute(&mut first, "START TRANSACTION").await;
    emit(&mut first, &event("k", "committed last")).await.unwrap();
    emit(&mut second, &event("k", "committed first")).await.unwrap();
    execute(&mut first, "COMMIT").await;
    assert_eq!(log(&store).await, ["committed last", "committed first"]);
}

/// Several keys: one by one two transactions may wait for each other, and one is told to begin anew; with
/// their keys locked first they never do.
#[tokio::test(flavor = "multi_thread")]
async fn several_keys_are_locked_in_one_order() {
    let url = database().await;
    let store = open(&url).await;
    let (mut one, mut other) = (connect(&url).await, connect(&url).await);
    for conn in [&mut one, &mut other] {
        execute(conn, "START TRANSACTION").await;
    }
    emit(&mut one, &event("a", "one-a")).await.unwrap();
    emit(&mut other, &event("b", "other-b")).await.unwrap();
    let (b, a) = (event("b", "one-b"), event("a", "other-a"));
    let (left, right) = tokio::join!(emit(&mut one, &b), emit(&mut other, &a));
    let refused = left.err().or(right.err()).expect("two that wait for each other go on");
    assert_eq!(refused.code(), Code::StoreBusy, "{refused}");
    drop((one, other));
    let mut writers = JoinSet::new();
    for writer in 0..6_usize {
        let url = url.clone();
        writers.spawn(async move {
            let mut conn = connect(&url).await;
            for round in 0..20_usize {
                let keys = (0..4_usize).map(|n| format!("k{}", (writer * 3 + round * n + n) % 7));
                let events: Vec<_> = keys
                    .enumerate()
                    .map(|(n, key)| event(&key, format!("{writer}-{round}-{n}")))
                    .collect();
                execute(&mut conn, "START TRANSACTION").await;
                emit_all(&mut conn, &events).await.unwrap();
                execute(&mut conn, "COMMIT").await;
            }
        });
    }
    let mut follower = Follower::new(&store);
    while let Some(written) = writers.join_next().await {
        written.unwrap();
        follower.drain(&store).await;
    }
    follower.drain(&store).await;
    assert_eq!(follower.ids.len(), 6 * 20 * 4);
    // Those of one transaction stay in the order in which they were emitted.
    let mut next: HashMap<&str, usize> = HashMap::new();
    for id in &follower.ids {
        let (transaction, n) = id.rsplit_once('-').unwrap();
        let expected = next.entry(transaction).or_default();
        assert_eq!(n, expected.to_string(), "of the transaction {transaction}");
        *expected += 1;
    }
}

/// What another server took in before a failover is placed first, though its numbers are higher.
#[tokio::test(flavor = "multi_thread")]
async fn what_came_in_before_a_failover_goes_first() {
    let url = database().await;
    let store = open(&url).await;
    let mut conn = connect(&url).await;
    for id in ["before", "after"] {
        emit(&mut conn, &event("k", id)).await.unwrap();
        let before = "UPDATE onewrite_outbox SET entered = (200 << 56) + 1 WHERE id = 'before'";
        execute(&mut conn, before).await;
    }
    let by_number = "SELECT id = 'after' FROM onewrite_outbox ORDER BY entered LIMIT 1";
    assert_eq!(number(&mut conn, by_number).await, 1, "by number it would be the other way round");
    assert_eq!(log(&store).await, ["before", "after"]);
}

/// Rows of several in one statement stand in their order as well.
#[tokio::test(flavor = "multi_thread")]
async fn one_statement_may_insert_several_events() {
    let url = database().await;
    let store = open(&url).await;
    let mut conn = connect(&url).await;
    conn.query_drop(
        "INSERT INTO onewrite_outbox (id, aggregatetype, aggregateid, type, payload)
         VALUES ('1', 'Order', 'a', 'Placed', '{}'), ('2', 'Order', 'b', 'Placed', '{}'), ('3', 'Order', 'a', 'Paid', '{\"ä\":1}')",
    )
    .await
    .unwrap();
    assert_eq!(log(&store).await, ["1", "2", "3"]);
}

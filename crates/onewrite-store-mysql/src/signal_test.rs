//! What is read to match and find signals, on a real server.

use super::*;
use crate::saga::read_test::{database, fill, plan};

/// Signals that are taken are kept as well, and most of those who wait have none.
#[tokio::test(flavor = "multi_thread")]
async fn only_signals_that_nobody_has_taken_are_gone_through() {
    let mut conn = database().await;
    fill(&mut conn).await;
    let waits = "INSERT INTO onewrite_saga_wait SELECT id, 'pay', `partition`, 'paid', `key`, 0 FROM onewrite_saga WHERE waits = 'signal'";
    let taken = "INSERT INTO onewrite_saga_signal SELECT seq, IF(seq % 2, 'paid', 'onewrite.request'), seq, '{}', 1, 9000000000000000, UNHEX(MD5(seq)) FROM seq_1_to_10000";
    let free = "INSERT INTO onewrite_saga_signal SELECT seq, IF(seq % 2, 'paid', 'onewrite.request'), seq, '{}', 1, 9000000000000000, NULL FROM seq_10001_to_10020";
    let look = "ANALYZE TABLE onewrite_saga_wait, onewrite_saga_signal";
    for sql in [waits, taken, free, look] {
        conn.query_drop(sql).await.unwrap();
    }
    let matched = plan(&mut conn, UNMATCHED, binds![]).await;
    let [first, second] = &matched[..] else { panic!("{matched:?}") };
    assert_eq!(*first, ["s", "ref", "onewrite_saga_signal_open", "17"]);
    assert_eq!([&*second[0], &second[1], &second[2]], ["w", "ref", "onewrite_saga_wait_for"]);
    let found = plan(&mut conn, &arrivals(&[0, 1], 100), binds![&*REQUEST]).await;
    let requests = &found[2..4];
    // Of those that nobody has taken, those of this name; then one saga for each.
    assert_eq!(requests[0], ["s", "ref", "onewrite_saga_signal_open", "1039"], "{found:?}");
    assert_eq!(requests[1], ["g", "eq_ref", "PRIMARY", "16"], "{found:?}");
}

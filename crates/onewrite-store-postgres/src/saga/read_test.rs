//! What is read to find what is due, on a real server.

use onewrite_testkit::server;

use super::*;
use crate::{Options, PostgresStore};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_is_found_by_its_index() {
    let server = server::shared_postgres().await.unwrap();
    let name = server::unique("plan");
    server.create_database(&name).await.unwrap();
    let options = Options::from_url(&server.url(&name)).unwrap();
    PostgresStore::open(options.clone()).await.unwrap();
    let client = options.connect().await.unwrap();
    // Thousands that wait, some for a signal, and half of all have ended.
    let fill = "INSERT INTO onewrite.saga (id, name, key, run, partition, definition, input, state, waits, due_at, started_at, ended_at)
         SELECT md5(n::text)::uuid, 'order', n, 0, n % 4, 'order@1', '{}', CASE n % 2 WHEN 0 THEN 'completed' ELSE 'running' END,
             CASE n % 4 WHEN 1 THEN 'timer' WHEN 3 THEN 'signal' ELSE 'nothing' END,
             CASE n % 2 WHEN 1 THEN now() + interval '1 hour' END, now(), CASE n % 2 WHEN 0 THEN now() END
         FROM generate_series(1, 10000) n; ANALYZE onewrite.saga";
    client.batch_execute(fill).await.unwrap();
    let sql = format!("EXPLAIN {COLUMNS}{DUE}{JOURNALS} ORDER BY s.due_at");
    let partitions = vec![0_i32, 1];
    let plan =
        client.query(&sql, &[&partitions, &100_i64, &vec!["timer", "signal"]]).await.unwrap();
    let plan: Vec<String> = plan.iter().map(|line| line.get(0)).collect();
    let by_time = |line: &String| line.contains("Index Cond") && line.contains("due_at");
    assert!(plan.iter().any(by_time), "{}", plan.join("\n"));
}
